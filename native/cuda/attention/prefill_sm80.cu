#include <cmath>

#include "cuda/attention/kernels.h"
#include "cuda/attention/prefill_dequantized.h"
#include "cuda/attention/prefill_sm80.cuh"
#include "cuda/device/allow_shared.h"

namespace dca::cuda {
namespace {

template <int kHeadDim, class T, bool kQ8>
cudaError_t launch(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    using C = sm80::Config<kHeadDim, T, kQ8>;
    sm80::Params params;
    params.args = args;
    params.blocks = QueryBlocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    params.scale_log2 = args.shape.scale * static_cast<float>(M_LOG2E);
    params.order = make_work_order(card, args, params.blocks);

    constexpr int kSharedBytes = sizeof(sm80::Shared<C>);
    const auto kernel = sm80::prefill_kernel<C>;
    const cudaError_t error = allow_shared_bytes(kernel, kSharedBytes);
    if (error != cudaSuccess) return error;
    kernel<<<params.order.count(), C::kThreads, kSharedBytes, stream>>>(params);
    if (kQ8 && cudaPeekAtLastError() == cudaSuccess)
        return launch_turn_back({args.shape, args.out, args.out_stride, args.n_queries, args.dtype, nullptr}, stream);
    return cudaGetLastError();
}

template <int kHeadDim>
cudaError_t launch_dtype(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    switch (args.cache.type) {
        case CacheType::F16: return launch<kHeadDim, __half, false>(card, args, stream);
        case CacheType::BF16: return launch<kHeadDim, __nv_bfloat16, false>(card, args, stream);
        case CacheType::Q8: return launch<kHeadDim, __half, true>(card, args, stream);
        case CacheType::F32:
        case CacheType::Q4: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_prefill_sm80(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    if (args.cache.type == CacheType::Q4) return launch_prefill_dequantized(card, args, launch_prefill_sm80, stream);
    switch (args.shape.head_dim) {
        case 64: return launch_dtype<64>(card, args, stream);
        case 80: return launch_dtype<80>(card, args, stream);
        case 96: return launch_dtype<96>(card, args, stream);
        case 128: return launch_dtype<128>(card, args, stream);
        case 256: return launch_dtype<256>(card, args, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace dca::cuda
