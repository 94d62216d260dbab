#include <algorithm>

#include "cuda/matvec.cuh"

namespace dca::cuda {
namespace {

#ifndef MV_STEPS
#define MV_STEPS 4
#endif
constexpr int kSteps = MV_STEPS;
constexpr int kFewSteps = 2;  // where shared memory is short
constexpr size_t kSharedByDefault = 48 * 1024;

template <class W>
size_t shared_bytes(uint32_t cols, int steps) {
    return sizeof(vec::Step<W>) * steps * vec::kWarps + W::vector_bytes(cols);
}

template <class W, int kSteps>
cudaError_t launch(const Card& card, const MatvecArgs& args, cudaStream_t stream) {
    const auto kernel = args.gated ? vec::matvec_kernel<W, true, kSteps> : vec::matvec_kernel<W, false, kSteps>;
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
    if (!matvec_takes(card, args.w, args.norm != nullptr)) return cudaErrorInvalidValue;
    cudaError_t status = cudaSuccess;
    visit_reader(args.w.format, [&](auto reader) {
        using W = decltype(reader);
        const bool room = shared_bytes<W>(args.w.cols, kSteps) <= card.shared_bytes;
        status = room ? launch<W, kSteps>(card, args, stream) : launch<W, kFewSteps>(card, args, stream);
    });
    return status;
}

bool matvec_takes(const Card& card, const Matrix& w, bool normed) {
    bool takes = false;
    visit_reader(w.format, [&](auto reader) {
        using W = decltype(reader);
        const uint32_t multiple = W::kUnits == 0 ? 8 : kUnit;
        takes = w.cols % multiple == 0 && (!normed || w.cols <= vec::kMaxNormed) && shared_bytes<W>(w.cols, kFewSteps) <= card.shared_bytes;
    });
    return takes;
}

}  // namespace dca::cuda
