// From the arguments of prefill to the sm_80 kernel and its launch.
#pragma once

#include "cuda/attention/kernels.h"
#include "cuda/attention/prefill/sm80.cuh"
#include "cuda/device/allow_shared.h"

namespace dca::cuda::sm80 {

template <int kHeadDim, class T, bool kQ8, Variant kVariant>
cudaError_t launch(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    using C = Config<kHeadDim, T, kQ8, kVariant>;
    Params params;
    params.args = args;
    params.blocks = QueryBlocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    params.scale = LogitScale(args.shape.scale, args.traits);
    params.order = make_work_order(card, args, C::kListed ? args.lists.n_blocks * C::kPageParts : params.blocks.count);

    constexpr int kSharedBytes = sizeof(Shared<C>);
    const auto kernel = prefill_kernel<C>;
    const cudaError_t error = allow_shared_bytes(kernel, kSharedBytes);
    if (error != cudaSuccess) return error;
    kernel<<<params.order.count(), C::kThreads, kSharedBytes, stream>>>(params);
    if (kQ8 && cudaPeekAtLastError() == cudaSuccess)
        return launch_turn_back({args.shape, args.out, args.out_stride, args.n_queries, args.dtype, nullptr}, stream);
    return cudaGetLastError();
}

template <int kHeadDim, Variant kVariant>
cudaError_t launch_dtype(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    switch (args.cache.type) {
        case CacheType::F16: return launch<kHeadDim, __half, false, kVariant>(card, args, stream);
        case CacheType::BF16: return launch<kHeadDim, __nv_bfloat16, false, kVariant>(card, args, stream);
        case CacheType::Q8: return launch<kHeadDim, __half, true, kVariant>(card, args, stream);
        case CacheType::F32:
        case CacheType::Q4: break;
    }
    return cudaErrorInvalidValue;
}

/// The kernels of one variant, for the head sizes it is compiled for.
template <Variant kVariant>
cudaError_t launch_variant(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    cudaError_t status = cudaErrorNotSupported;
    const auto take = [&](auto head_dim) {
        if constexpr (compiled(kVariant, head_dim()))
            if (args.shape.head_dim == head_dim()) status = launch_dtype<head_dim(), kVariant>(card, args, stream);
    };
    take(std::integral_constant<int, 64>{});
    take(std::integral_constant<int, 80>{});
    take(std::integral_constant<int, 96>{});
    take(std::integral_constant<int, 128>{});
    take(std::integral_constant<int, 256>{});
    return status;
}

extern template cudaError_t launch_variant<Variant::Windowed>(const Card&, const PrefillArgs&, cudaStream_t);
extern template cudaError_t launch_variant<Variant::Capped>(const Card&, const PrefillArgs&, cudaStream_t);
extern template cudaError_t launch_variant<Variant::Listed>(const Card&, const PrefillArgs&, cudaStream_t);

}  // namespace dca::cuda::sm80
