// From the arguments of prefill to the Hopper kernel and its launch.
#pragma once

#include <algorithm>

#include "cuda/attention/kernels.h"
#include "cuda/attention/prefill/sm90.cuh"
#include "cuda/device/allow_shared.h"
#include "cuda/device/tensor_map.h"

namespace dca::cuda::sm90 {

/// Where the parts of so many items of the order lie in the workspace, behind the counter; a call finds `own` of them.
template <class C>
Parts place_parts(void* workspace, const KeyPiece& piece, uint32_t own, uint32_t items) {
    const uint32_t count = piece.count * own;
    float2* softmax = reinterpret_cast<float2*>(static_cast<uint8_t*>(workspace) + kCounterBytes);
    return {count, piece.number * own, own, reinterpret_cast<float*>(softmax + size_t{items} * count * C::kRows), softmax};
}

/// Parts that each block of queries, and each piece of its keys, is cut into: so many that the card is full, as far as keys and
/// the workspace allow. The same for all pieces.
template <class C>
uint32_t split_count(const Card& card, const PrefillArgs& args) {
    const QueryBlocks blocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    const uint32_t items = blocks.count * args.shape.n_heads;
    const bool pieces = args.piece.count > 1;  // whose parts have room in any case
    const uint64_t room = pieces ? card.multiprocessors : kPartsBytes / sm90_part_bytes(C::kHeadDim);
    uint32_t parts = std::min<uint64_t>(card.multiprocessors, room) / items;
    if (parts < 2) return 1;
    if (pieces) return std::max(1u, std::min(parts, args.start / args.piece.count / kLeastPartKeys));
    for (uint32_t n = 0; n < blocks.count; ++n)
        parts = std::min(parts, TileWalk<C::kKeys>(args.scheme, blocks.at(n)).left() / (kLeastPartKeys / C::kKeys));
    return std::max(1u, parts);
}

template <class C>
cudaError_t launch(const Card& card, const PrefillArgs& args, uint32_t parts, cudaStream_t stream) {
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

    Params params;
    params.shape = shape;
    params.scheme = args.scheme;
    params.blocks = QueryBlocks(args.start, args.n_queries, args.scheme.chunk_size, C::kRows);
    params.n_keys = static_cast<uint32_t>(context_of(args));
    params.cos_sin = args.rotary.cos_sin;
    params.page_table = args.page_table;
    params.out = args.out;
    params.out_stride = args.out_stride;
    params.dtype = args.dtype;
    params.traits = args.traits;
    params.scale = LogitScale(shape.scale, args.traits);
    params.next_item = static_cast<int32_t*>(args.workspace);
    params.order = make_work_order(card, args, C::kListed ? args.lists.n_blocks : params.blocks.count);
    params.lists = args.lists;
    params.piece = args.piece;
    params.parts = C::kSplit ? place_parts<C>(args.workspace, args.piece, parts, params.order.count()) : Parts{};

    constexpr int kSharedBytes = sizeof(Shared<C>) + 1023;  // room to align
    const auto kernel = prefill_kernel<C>;
    if (error == cudaSuccess) error = allow_shared_bytes(kernel, kSharedBytes);
    if (error == cudaSuccess) error = cudaMemsetAsync(params.next_item, 0, sizeof(int32_t), stream);
    if (error != cudaSuccess) return error;
    const uint32_t grid = std::min(params.order.count() * params.parts.own, static_cast<uint32_t>(card.multiprocessors));
    kernel<<<grid, C::kThreads, kSharedBytes, stream>>>(q_map, k_map, v_map, params);
    if (C::kSplit && args.piece.number + 1 == args.piece.count) {
        constexpr int kWarps = 4;
        const dim3 merging(params.order.count(), ceil_div(C::kRows, kWarps));
        merge_parts<C::kHeadDim, C::kRows, kWarps><<<merging, 32 * kWarps, 0, stream>>>(
            params.parts, params.order, params.blocks, {args.out, args.out_stride, args.start, args.dtype, params.scale.scale_log2});
    }
    return cudaGetLastError();
}

/// Cut into parts where that fills the card.
template <int kHeadDim, class T, Variant kVariant>
cudaError_t launch_parts(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    using C = Config<kHeadDim, T, kVariant>;
    if constexpr (kVariant == Variant::Plain) {
        if (const uint32_t parts = split_count<C>(card, args); parts > 1 || args.piece.count > 1)
            return launch<Config<kHeadDim, T, kVariant, true>>(card, args, parts, stream);
    }
    return launch<C>(card, args, 1, stream);
}

template <class T, Variant kVariant>
cudaError_t launch_head_dim(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    cudaError_t status = cudaErrorNotSupported;
    const auto take = [&](auto head_dim) {
        if constexpr (compiled(kVariant, head_dim()))
            if (args.shape.head_dim == head_dim()) status = launch_parts<head_dim(), T, kVariant>(card, args, stream);
    };
    take(std::integral_constant<int, 64>{});
    take(std::integral_constant<int, 80>{});
    take(std::integral_constant<int, 96>{});
    take(std::integral_constant<int, 128>{});
    return status;
}

/// The kernels of one variant, for a cache of 16-bit values.
template <Variant kVariant>
cudaError_t launch_variant(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    return args.cache.type == CacheType::F16 ? launch_head_dim<__half, kVariant>(card, args, stream)
                                             : launch_head_dim<__nv_bfloat16, kVariant>(card, args, stream);
}

extern template cudaError_t launch_variant<Variant::Windowed>(const Card&, const PrefillArgs&, cudaStream_t);
extern template cudaError_t launch_variant<Variant::Capped>(const Card&, const PrefillArgs&, cudaStream_t);
extern template cudaError_t launch_variant<Variant::Listed>(const Card&, const PrefillArgs&, cudaStream_t);

}  // namespace dca::cuda::sm90
