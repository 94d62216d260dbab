#include <algorithm>

#include "cuda/matvec.cuh"

namespace dca::cuda {
namespace {

constexpr size_t kSharedByDefault = 48 * 1024;

template <class W>
cudaError_t launch(const Card& card, const MatvecArgs& args, cudaStream_t stream) {
    const auto kernel = args.gated ? vec::matvec_kernel<W, true> : vec::matvec_kernel<W, false>;
    const size_t shared_bytes = W::shared_bytes(args.w.cols);
    if (shared_bytes > kSharedByDefault) {
        const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (status != cudaSuccess) return status;
    }
    const uint32_t items = (args.w.rows + 1) / 2;
    const uint32_t most = static_cast<uint32_t>(card.multiprocessors) * vec::kBlocksPerMultiprocessor;
    const dim3 grid(std::min(most, (items + vec::kWarps - 1) / vec::kWarps));
    return launch_overlapped(card, kernel, grid, vec::kThreads, shared_bytes, stream, args);
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
    visit_reader(args.w.format, [&](auto reader) { status = launch<decltype(reader)>(card, args, stream); });
    return status;
}

bool matvec_takes(const Card& card, const Matrix& w, bool normed) {
    bool takes = false;
    visit_reader(w.format, [&](auto reader) {
        using W = decltype(reader);
        const uint32_t multiple = W::kWeights == 8 ? 8 : kUnit;
        takes = w.cols % multiple == 0 && (!normed || w.cols <= vec::kMaxNormed) && W::shared_bytes(w.cols) + 256 <= card.shared_bytes;
    });
    return takes;
}

}  // namespace dca::cuda
