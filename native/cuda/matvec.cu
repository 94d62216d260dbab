#include <algorithm>

#include "cuda/matvec.cuh"

namespace dca::cuda {
namespace {

constexpr int kMostSteps = 4, kFewSteps = 3, kFewestSteps = 2;  // of the rings: as many as shared memory holds
constexpr size_t kSharedByDefault = 48 * 1024;

template <class W>
size_t shared_bytes(uint32_t cols, int steps) {
    return size_t{vec::Step<W>::kBytes} * steps * vec::kWarps + vec::vector_bytes<W>(cols);
}

template <class W, int kSteps>
cudaError_t launch(const Card& card, const MatvecArgs& args, cudaStream_t stream) {
    const auto kernel = vec::matvec_kernel<W, kSteps>;
    const size_t bytes = shared_bytes<W>(args.w.cols, kSteps);
    if (bytes > kSharedByDefault) {
        const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
        if (status != cudaSuccess) return status;
    }
    const uint32_t items = (args.w.rows + 1) / 2;
    const dim3 grid(std::min(static_cast<uint32_t>(card.multiprocessors), (items + vec::kWarps - 1) / vec::kWarps));
    return launch_overlapped(card, kernel, grid, vec::kThreads, bytes, stream, args);
}

/// Calls visit(W{}) with the reader of the format.
template <class Visit>
void visit_reader(WeightFormat format, Visit&& visit) {
    const bool quantised = visit_planes(format, [&](auto planes) { visit(vec::Quantised<decltype(planes)>{}); });
    if (quantised) return;
    if (format == WeightFormat::F16) visit(vec::Dense<__half>{});
    else visit(vec::Dense<__nv_bfloat16>{});
}

}  // namespace

cudaError_t matvec(const Card& card, const MatvecArgs& args, cudaStream_t stream) {
    if (!matvec_takes(card, args.w)) return cudaErrorInvalidValue;
    cudaError_t status = cudaSuccess;
    visit_reader(args.w.format, [&](auto reader) {
        using W = decltype(reader);
        const auto fits = [&](int steps) { return shared_bytes<W>(args.w.cols, steps) + vec::kStaticBytes <= card.shared_bytes; };
        if (fits(kMostSteps)) status = launch<W, kMostSteps>(card, args, stream);
        else if (fits(kFewSteps)) status = launch<W, kFewSteps>(card, args, stream);
        else status = launch<W, kFewestSteps>(card, args, stream);
    });
    return status;
}

bool matvec_takes(const Card& card, const Matrix& w) {
    bool takes = false;
    visit_reader(w.format, [&](auto reader) {
        using W = decltype(reader);
        const uint32_t multiple = W::kUnits == 0 ? 8 : kUnit;
        takes = w.cols % multiple == 0 &&
                shared_bytes<W>(w.cols, kFewestSteps) + vec::kStaticBytes <= card.shared_bytes;
    });
    return takes;
}

}  // namespace dca::cuda
