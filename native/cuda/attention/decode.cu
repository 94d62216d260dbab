#include <cmath>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/kernels.h"

namespace dca::cuda {
namespace {

/// How a shape is spread over the card: blocks of threads are (splits, key heads, head groups).
struct DecodeGrid {
    uint32_t splits, kv_heads, groups, heads_per_group;

    size_t slots() const { return size_t{kv_heads} * groups; }
    size_t partial_rows() const { return slots() * splits * heads_per_group; }
};

/// One block of threads per multiprocessor, all at once: eight warps, each with a tile of keys and one of
/// values in flight, keep memory busy; two smaller blocks measured slower.
DecodeGrid decode_grid(const Card& card, const AttentionShape& shape) {
    const uint32_t group = shape.n_heads / shape.n_kv_heads;
    const uint32_t heads_per_group = group > 8 && shape.head_dim <= 128 ? 16 : 8;
    const uint32_t kv_heads = shape.n_kv_heads, groups = ceil_div(group, heads_per_group);
    return {std::max(1u, card.multiprocessors / (kv_heads * groups)), kv_heads, groups, heads_per_group};
}

constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

template <int kHeadDim, class T, bool kQ8, int kHeadTiles>
cudaError_t launch(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    using C = decode::Config<kHeadDim, T, kQ8, kHeadTiles>;
    const DecodeGrid grid = decode_grid(card, args.shape);
    uint8_t* workspace = static_cast<uint8_t*>(args.workspace);
    const size_t tickets_bytes = aligned(grid.slots() * sizeof(uint32_t));
    const size_t softmax_bytes = aligned(grid.partial_rows() * sizeof(float2));
    decode::Params params;
    params.args = args;
    params.scale_log2 = args.shape.scale * static_cast<float>(M_LOG2E);
    params.tickets = reinterpret_cast<uint32_t*>(workspace);
    params.partial_softmax = reinterpret_cast<float2*>(workspace + tickets_bytes);
    params.partial_out = reinterpret_cast<float*>(workspace + tickets_bytes + softmax_bytes);

    constexpr int kSharedBytes = sizeof(decode::Shared<C>);
    const auto kernel = decode::decode_kernel<C>;
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (error != cudaSuccess) return error;
    kernel<<<dim3(grid.splits, grid.kv_heads, grid.groups), C::kThreads, kSharedBytes, stream>>>(params);
    return cudaGetLastError();
}

template <int kHeadDim, int kHeadTiles>
cudaError_t launch_dtype(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    switch (args.cache.type) {
        case CacheType::F16: return launch<kHeadDim, __half, false, kHeadTiles>(card, args, stream);
        case CacheType::BF16: return launch<kHeadDim, __nv_bfloat16, false, kHeadTiles>(card, args, stream);
        case CacheType::Q8: return launch<kHeadDim, __half, true, kHeadTiles>(card, args, stream);
        case CacheType::F32: break;
    }
    return cudaErrorInvalidValue;
}

template <int kHeadDim>
cudaError_t launch_heads(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    if constexpr (kHeadDim <= 128)
        if (args.shape.n_heads / args.shape.n_kv_heads > 8) return launch_dtype<kHeadDim, 2>(card, args, stream);
    return launch_dtype<kHeadDim, 1>(card, args, stream);
}

}  // namespace

size_t decode_workspace_bytes(const Card& card, const AttentionShape& shape) {
    const DecodeGrid grid = decode_grid(card, shape);
    return aligned(grid.slots() * sizeof(uint32_t)) + aligned(grid.partial_rows() * sizeof(float2)) +
           grid.partial_rows() * shape.head_dim * sizeof(float);
}

cudaError_t launch_decode(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    switch (args.shape.head_dim) {
        case 64: return launch_heads<64>(card, args, stream);
        case 80: return launch_heads<80>(card, args, stream);
        case 96: return launch_heads<96>(card, args, stream);
        case 128: return launch_heads<128>(card, args, stream);
        case 256: return launch_heads<256>(card, args, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace dca::cuda
