// The kernels behind attention.h, each with its launch function. Arguments have been checked.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/attention.h"
#include "cuda/attention/variants.h"
#include "cuda/attention/work_order.h"

namespace dca::cuda {

/// Any head size up to 256. With `rows` not null query n is the newest token of rows[n], whose page table starts at
/// args.page_table + rows[n].first_page, and args.start is not read.
cudaError_t launch_simple(const PrefillArgs& args, const DecodeRow* rows, cudaStream_t stream);

/// Whether the fast kernels take this shape with these traits.
inline bool fast_shape(const AttentionShape& shape, const AttentionTraits& traits = {}, const Scheme& scheme = {}) {
    return compiled(variant_of(traits, scheme), shape.head_dim) && shape.rotary_dim % 8 == 0;
}
inline bool fast_shape(const PrefillArgs& args) {
    return compiled(variant_of(args), args.shape.head_dim) && args.shape.rotary_dim % 8 == 0;
}

/// Tokens whose keys and values are in the cache.
inline uint64_t context_of(const PrefillArgs& args) { return uint64_t{args.start} + args.n_queries + args.n_behind; }

cudaError_t launch_prefill_sm80(const Card& card, const PrefillArgs& args, cudaStream_t stream);

/// Hopper: TMA and wgmma. A page table may be null here: pages 0, 1, 2, ... Head sizes up to 128; a Q8 cache is dequantized in the workspace first.
bool prefill_sm90_takes(const Card& card, const PrefillArgs& args);
bool prefill_sm90_takes_pieces(const Card& card, const AttentionShape& shape, const Scheme& scheme);
cudaError_t launch_prefill_sm90(const Card& card, const PrefillArgs& args, cudaStream_t stream);

/// The Hopper kernel's workspace: a counter, and what blocks of threads find that share queries. A part of a block's takes 66 KB at
/// most; as many as there are multiprocessors.
constexpr uint32_t sm90_block_rows(int head_dim) { return head_dim <= 64 ? 192 : 128; }
constexpr size_t sm90_part_bytes(int head_dim) { return sm90_block_rows(head_dim) * (2 + static_cast<size_t>(head_dim)) * sizeof(float); }
constexpr size_t kCounterBytes = 256;
constexpr size_t kPartsBytes = size_t{10} << 20;
constexpr uint32_t kLeastPartKeys = 4096;

/// Decode for fast shapes.
cudaError_t launch_decode(const Card& card, const DecodeArgs& args, cudaStream_t stream);

/// Queries, of heads or rows that share a key head, that its kernels multiply at a time at most.
constexpr uint32_t decode_columns(int head_dim) { return head_dim <= 128 ? 16 : 8; }

/// Whether they turn their outputs back, of a cache of codes: where a matrix lies in one warp.
DCA_HOST_DEVICE constexpr bool decode_turns_back(int head_dim) { return hadamard_size(head_dim) <= 128; }

/// Shared memory of a block with which four times as many meet a tile of keys that all rows share.
constexpr size_t kStagedGroupBytes = size_t{128} << 10;

cudaError_t launch_store(const Card& card, const StoreArgs& args, cudaStream_t stream);
cudaError_t launch_settle(const AttentionShape& shape, const LayerCache& cache, const FilledPages& pages, cudaStream_t stream);

/// Turns every head of `out` (n_rows, n_heads, head_dim) by its Hadamard matrices, in place.
struct TurnArgs {
    AttentionShape shape;
    void* out;
    int64_t stride;  // elements between rows
    uint32_t n_rows;
    Dtype dtype;
    const DecodeRow* rows;  // (n_rows) in device memory, those of padding are passed over; null: none are padding
};
cudaError_t launch_turn_back(const TurnArgs& args, cudaStream_t stream);

/// The order of work for so many blocks of queries, the sections sized to the card's L2 cache.
WorkOrder make_work_order(const Card& card, const PrefillArgs& args, uint32_t n_blocks);

}  // namespace dca::cuda
