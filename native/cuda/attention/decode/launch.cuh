// From the arguments of decode to its kernels and their launch.
#pragma once

#include <algorithm>

#include "cuda/attention/decode/decode.cuh"
#include "cuda/attention/decode/group_sm90.cuh"
#include "cuda/attention/decode/shared.cuh"
#include "cuda/attention/kernels.h"
#include "cuda/device/allow_shared.h"
#include "cuda/device/tensor_map.h"

namespace dca::cuda::decode {

/// How a shape is spread over the card.
struct DecodeGrid {
    uint32_t groups;       // of query heads that share a key head
    uint32_t pairs;        // (key head, group)
    uint32_t splits;       // of a row's keys at most: as many as a row alone needs to fill the card
    uint32_t own_splits;   // of those that no group reads for the row, where one reads others
    uint32_t group_heads;  // at most
    uint32_t rows;         // at most

    size_t tickets_bytes() const { return aligned(size_t{rows} * pairs * sizeof(uint32_t)); }
    size_t parts() const { return size_t{rows} * pairs * (splits + own_splits) * group_heads; }
    size_t softmax_bytes() const { return aligned(parts() * sizeof(float2)); }

private:
    static constexpr size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
};

/// A multiprocessor holds one block of threads: eight warps, each with a tile of keys and one of values in
/// flight, keep memory busy; two smaller blocks measured slower.
inline DecodeGrid decode_grid(const Card& card, const AttentionShape& shape, uint32_t rows) {
    const uint32_t group = shape.n_heads / shape.n_kv_heads;
    const uint32_t heads_per_group = group > 8 && shape.head_dim <= 128 ? 16 : 8;
    const uint32_t groups = ceil_div(group, heads_per_group), pairs = shape.n_kv_heads * groups;
    const uint32_t splits = std::max(1u, card.multiprocessors / pairs);
    return {groups, pairs, splits, ceil_div(splits, 4), std::min(group, heads_per_group), rows};
}

/// Keys of a split at least. The more rows fill the card, the longer: a split costs a start and a merge.
inline uint32_t least_keys(const Card& card, uint32_t n_rows, uint32_t pairs) {
    constexpr uint32_t kAlone = 256, kMany = 2048;
    return n_rows == 1 ? kAlone : std::min(kMany, kAlone * (1 + 8 * n_rows * pairs / card.multiprocessors));
}

/// Splits of a row's keys with which rows of one length are one split, or a few, a multiprocessor. Every further one costs a
/// start and a merge, in which the multiprocessor asks for little.
inline uint32_t fewest_splits(const Card& card, uint32_t n_rows, uint32_t pairs) {
    return std::max(1u, card.multiprocessors / (n_rows * pairs));
}

/// Per cent of a multiprocessor's memory that blocks of decode have in a step of several rows. Tiles come through the
/// first-level cache, and products of few rows, which want nearly all for blocks, would leave it 28 KB: on an H100 eight rows of
/// 16,384 keys then take 200 us instead of 189. A single row's products want little.
constexpr int kSharedPercent = 28;

/// Launches the kernel for Items of all rows; blocks take splits in turn, `most` of them.
template <class C, class Items>
cudaError_t launch_items(const Card& card, const Params& params, uint64_t most, cudaStream_t stream) {
    constexpr int kSharedBytes = sizeof(Shared<C>);
    const auto kernel = decode_kernel<C, Items>;
    cudaError_t error = allow_shared_bytes(kernel, kSharedBytes);
    if (error == cudaSuccess) error = divide_memory(kernel, params.args.n_rows > 1 ? kSharedPercent : cudaSharedmemCarveoutDefault);
    if (error != cudaSuccess) return error;
    const auto blocks = static_cast<uint32_t>(std::min<uint64_t>(card.multiprocessors, most));
    return launch_overlapped(card, kernel, dim3(blocks), C::kThreads, kSharedBytes, stream, params);
}

/// Launches Hopper's kernel for groups of rows.
template <class C>
cudaError_t launch_groups_sm90(const Card& card, const Params& params, uint32_t blocks, cudaStream_t stream) {
    using P = Panels<C::kHeadDim>;
    const LayerCache& cache = params.args.cache;
    constexpr uint64_t kRowBytes = 2 * C::kHeadDim;
    TensorMapSpec spec{cache.keys,
                       {C::kHeadDim, kPageTokens, uint64_t{cache.pages} * params.args.shape.n_kv_heads},
                       {kRowBytes, kPageTokens * kRowBytes},
                       {P::kWidth, C::kKeys, 1},
                       P::kRowBytes};
    sm90::Maps maps;
    cudaError_t error = make_tensor_map(spec, maps.keys);
    spec.data = cache.values;
    if (error == cudaSuccess) error = make_tensor_map(spec, maps.values);
    constexpr int kSharedBytes = sizeof(sm90::Shared<C>) + 1023;  // room to align
    const auto kernel = sm90::group_kernel<C>;
    if (error == cudaSuccess) error = allow_shared_bytes(kernel, kSharedBytes);
    if (error == cudaSuccess) error = divide_memory(kernel, cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    return launch_overlapped(card, kernel, dim3(blocks), C::kThreads, kSharedBytes, stream, maps, params);
}

/// Launches the kernel for groups of rows. Of a Q4 cache it is unpacking the codes that takes time, which every warp would do for
/// a tile in shared memory, too.
template <class C>
cudaError_t launch_groups(const Card& card, const Params& params, cudaStream_t stream) {
    const uint64_t most = uint64_t{params.args.n_groups} * params.pairs * params.most_shared;
#if defined(DCA_CUDA_SM90A)
    if constexpr (!C::kCodes && C::kHeadDim <= 128) {
        if (card.compute_capability == 90) {
            const auto blocks = static_cast<uint32_t>(std::min<uint64_t>(card.multiprocessors, most));
            return launch_groups_sm90<sm90::Config<C::kHeadDim, typename C::T>>(card, params, blocks, stream);
        }
    }
#endif
    if constexpr (!C::kQ4) {
        if (card.shared_bytes >= kStagedGroupBytes) {
            constexpr size_t kFixedBytes = sizeof(GroupShared<C>);
            static_assert(kFixedBytes + group_results_bytes<C>() <= kStagedGroupBytes);
            const auto kernel = decode_group_kernel<C>;
            const cudaError_t error = allow_shared_bytes(kernel, card.shared_bytes);
            if (error != cudaSuccess) return error;
            const auto blocks = static_cast<uint32_t>(std::min<uint64_t>(card.multiprocessors, most));
            const auto ring_bytes = static_cast<uint32_t>(card.shared_bytes - kFixedBytes);
            return launch_overlapped(card, kernel, dim3(blocks), C::kThreads, card.shared_bytes, stream, params, ring_bytes);
        }
    }
    return launch_items<C, Groups<C>>(card, params, most, stream);
}

template <int kHeadDim, class T, bool kQ8, int kHeadTiles, Variant kVariant>
cudaError_t launch(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    using C = Config<kHeadDim, T, kQ8, kHeadTiles, kVariant>;
    const DecodeGrid grid = decode_grid(card, args.shape, args.workspace_rows);
    uint8_t* workspace = static_cast<uint8_t*>(args.workspace);
    Params params;
    params.args = args;
    params.scale = LogitScale(args.shape.scale, args.traits);
    params.groups = grid.groups;
    params.pairs = grid.pairs;
    params.most_splits = params.most_parts = grid.splits;
    params.most_shared = 0;
    params.least_keys = least_keys(card, args.n_rows, grid.pairs);
    params.fewest_splits = fewest_splits(card, args.n_rows, grid.pairs);
    params.part_heads = grid.group_heads;
    params.tickets = reinterpret_cast<uint32_t*>(workspace);
    params.partial_softmax = reinterpret_cast<float2*>(workspace + grid.tickets_bytes());
    params.partial_out = reinterpret_cast<float*>(workspace + grid.tickets_bytes() + grid.softmax_bytes());

    if (decode_group_rows(card, args.shape, args.cache.type) < 2) params.args.n_groups = 0;
    if constexpr (kHeadTiles == 1 && kVariant == Variant::Plain) {
        if (params.args.n_groups != 0) {
            // Most keys are shared ones where there are groups.
            params.most_splits = grid.own_splits;
            params.most_shared = grid.splits;
            params.most_parts = grid.own_splits + grid.splits;
            using Wide = Config<kHeadDim, T, kQ8, decode_columns(kHeadDim) / 8, kVariant>;
            const cudaError_t error = launch_groups<Wide>(card, params, stream);
            if (error != cudaSuccess) return error;
        }
    }
    const uint64_t most = uint64_t{args.n_rows} * grid.pairs * grid.splits;
    return launch_items<C, Rows<C>>(card, params, most, stream);
}

template <int kHeadDim, int kHeadTiles, Variant kVariant>
cudaError_t launch_dtype(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    switch (args.cache.type) {
        case CacheType::F16: return launch<kHeadDim, __half, false, kHeadTiles, kVariant>(card, args, stream);
        case CacheType::BF16: return launch<kHeadDim, __nv_bfloat16, false, kHeadTiles, kVariant>(card, args, stream);
        case CacheType::Q8: return launch<kHeadDim, __half, true, kHeadTiles, kVariant>(card, args, stream);
        case CacheType::Q4: return launch<kHeadDim, Q4Codes, false, kHeadTiles, kVariant>(card, args, stream);
        case CacheType::F32: break;
    }
    return cudaErrorInvalidValue;
}

template <int kHeadDim, Variant kVariant>
cudaError_t launch_heads(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    if constexpr (kHeadDim <= 128)
        if (args.shape.n_heads / args.shape.n_kv_heads > 8) return launch_dtype<kHeadDim, 2, kVariant>(card, args, stream);
    return launch_dtype<kHeadDim, 1, kVariant>(card, args, stream);
}

/// The kernels of one variant, for the head sizes it is compiled for.
template <Variant kVariant>
cudaError_t launch_variant(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    cudaError_t status = cudaErrorNotSupported;
    const auto take = [&](auto head_dim) {
        if constexpr (compiled(kVariant, head_dim()))
            if (args.shape.head_dim == head_dim()) status = launch_heads<head_dim(), kVariant>(card, args, stream);
    };
    take(std::integral_constant<int, 64>{});
    take(std::integral_constant<int, 80>{});
    take(std::integral_constant<int, 96>{});
    take(std::integral_constant<int, 128>{});
    take(std::integral_constant<int, 256>{});
    return status;
}

extern template cudaError_t launch_variant<Variant::Windowed>(const Card&, const DecodeArgs&, cudaStream_t);
extern template cudaError_t launch_variant<Variant::Capped>(const Card&, const DecodeArgs&, cudaStream_t);

}  // namespace dca::cuda::decode
