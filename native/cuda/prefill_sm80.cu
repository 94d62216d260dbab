#include <cmath>

#include "cuda/attention_kernels.h"
#include "cuda/prefill_sm80.cuh"

namespace dca::cuda {
namespace {

template <int kHeadDim, class T, bool kQ8>
cudaError_t launch(const PrefillArgs& args, cudaStream_t stream) {
    using C = sm80::Config<kHeadDim, T, kQ8>;
    sm80::Params params;
    params.args = args;
    params.blocks = QueryBlocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    params.scale_log2 = args.shape.scale * static_cast<float>(M_LOG2E);
    cudaError_t error = make_work_order(args, params.blocks, params.order);

    constexpr int kSharedBytes = sizeof(sm80::Shared<C>);
    const auto kernel = sm80::prefill_kernel<C>;
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (error != cudaSuccess) return error;
    kernel<<<params.order.count(), C::kThreads, kSharedBytes, stream>>>(params);
    return cudaGetLastError();
}

template <int kHeadDim>
cudaError_t launch_dtype(const PrefillArgs& args, cudaStream_t stream) {
    switch (args.cache.dtype) {
        case CacheDtype::F16: return launch<kHeadDim, __half, false>(args, stream);
        case CacheDtype::BF16: return launch<kHeadDim, __nv_bfloat16, false>(args, stream);
        case CacheDtype::Q8: return launch<kHeadDim, __half, true>(args, stream);
    }
    return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_prefill_sm80(const PrefillArgs& args, cudaStream_t stream) {
    switch (args.shape.head_dim) {
        case 64: return launch_dtype<64>(args, stream);
        case 80: return launch_dtype<80>(args, stream);
        case 96: return launch_dtype<96>(args, stream);
        case 128: return launch_dtype<128>(args, stream);
        case 256: return launch_dtype<256>(args, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace dca::cuda
