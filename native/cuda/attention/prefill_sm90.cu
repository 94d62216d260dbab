#include <algorithm>
#include <cmath>

#include "cuda/attention/kernels.h"
#include "cuda/attention/prefill_dequantized.h"
#include "cuda/attention/prefill_sm90.cuh"
#include "cuda/device/allow_shared.h"
#include "cuda/device/tensor_map.h"

namespace dca::cuda {
namespace {

template <class C>
cudaError_t launch(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    using P = Panels<C::kHeadDim>;
    const AttentionShape& shape = args.shape;
    const uint64_t head_dim = shape.head_dim;
    const uint64_t pages = uint64_t{args.cache.pages} * shape.n_kv_heads;

    CUtensorMap q_map, k_map, v_map;
    const TensorMapSpec queries{args.q,
                                {head_dim, static_cast<uint64_t>(shape.n_heads), args.n_queries},
                                {head_dim * 2, static_cast<uint64_t>(args.q_stride) * 2},
                                {static_cast<uint32_t>(head_dim), 1, C::kRows},
                                0};
    TensorMapSpec tiles{args.cache.keys,
                        {head_dim, kPageTokens, pages},
                        {head_dim * 2, kPageTokens * head_dim * 2},
                        {P::kWidth, C::kKeys, 1},
                        P::kRowBytes};
    cudaError_t error = make_tensor_map(queries, q_map);
    if (error == cudaSuccess) error = make_tensor_map(tiles, k_map);
    tiles.data = args.cache.values;
    if (error == cudaSuccess) error = make_tensor_map(tiles, v_map);

    sm90::Params params;
    params.shape = shape;
    params.scheme = args.scheme;
    params.blocks = QueryBlocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    params.cos_sin = args.rotary.cos_sin;
    params.page_table = args.page_table;
    params.out = args.out;
    params.out_stride = args.out_stride;
    params.dtype = args.dtype;
    params.scale_log2 = shape.scale * static_cast<float>(M_LOG2E);
    params.next_item = static_cast<int32_t*>(args.workspace);
    params.order = make_work_order(card, args, params.blocks);

    constexpr int kSharedBytes = sizeof(sm90::Shared<C>) + 1023;  // room to align
    const auto kernel = sm90::prefill_kernel<C>;
    if (error == cudaSuccess) error = allow_shared_bytes(kernel, kSharedBytes);
    if (error == cudaSuccess) error = cudaMemsetAsync(params.next_item, 0, sizeof(int32_t), stream);
    if (error != cudaSuccess) return error;
    const uint32_t grid = std::min(params.order.count(), static_cast<uint32_t>(card.multiprocessors));
    kernel<<<grid, C::kThreads, kSharedBytes, stream>>>(q_map, k_map, v_map, params);
    return cudaGetLastError();
}

template <class T>
cudaError_t launch_head_dim(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    switch (args.shape.head_dim) {
        case 64: return launch<sm90::Config<64, T>>(card, args, stream);
        case 80: return launch<sm90::Config<80, T>>(card, args, stream);
        case 96: return launch<sm90::Config<96, T>>(card, args, stream);
        case 128: return launch<sm90::Config<128, T>>(card, args, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace

bool prefill_sm90_takes(const Card& card, const PrefillArgs& args) {
#if defined(DCA_CUDA_SM90A)
    return card.compute_capability == 90 && fast_shape(args.shape) && args.shape.head_dim <= 128 &&
           (args.cache.type != CacheType::Q8 || dequantizing_pays(args)) &&
           (args.cache.type != CacheType::Q4 || has_room_to_dequantize(args));
#else
    static_cast<void>(card), static_cast<void>(args);
    return false;  // built without machine code for sm_90a
#endif
}

cudaError_t launch_prefill_sm90(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    switch (args.cache.type) {
        case CacheType::F16: return launch_head_dim<__half>(card, args, stream);
        case CacheType::BF16: return launch_head_dim<__nv_bfloat16>(card, args, stream);
        case CacheType::Q8:
        case CacheType::Q4: return launch_prefill_dequantized(card, args, launch_prefill_sm90, stream);
        case CacheType::F32: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace dca::cuda
