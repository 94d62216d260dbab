#include "cuda/attention/prefill/dequantized.h"

#include <algorithm>

#include "core/positions/key_ranges.h"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/attention/q8_cache.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

/// Eight values of a row of a Q8 cache.
__device__ __forceinline__ void read_q8(const uint8_t* row, __half scale, uint32_t vector, float (&v)[8]) {
    const uint2 bytes = __ldcs(reinterpret_cast<const uint2*>(row + vector * 8));
#pragma unroll
    for (int n = 0; n < 8; ++n) v[n] = q8_value((n < 4 ? bytes.x : bytes.y) >> n % 4 * 8, scale);
}

/// n_keys tokens from the first one of page `first_page` on of heads [first_head, first_head + gridDim.y) to f16: keys where
/// blockIdx.z is 0, values where it is 1. `out` is (2, pages, gridDim.y, kPageTokens, head_dim), the pages in order; past these
/// tokens it stays as it is. A thread dequantizes 8 values. Fine codes of a Q4 cache are read from page `fresh_page` on.
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const LayerCache cache, const uint32_t* page_table, int n_kv_heads, int head_dim, uint32_t first_head,
                      uint32_t first_page, uint32_t n_keys, uint32_t fresh_page, __half* out) {
    const size_t at = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint32_t vectors = head_dim / 8;
    const uint32_t vector = at % vectors;
    const auto own = static_cast<uint32_t>(min(at / vectors, size_t{n_keys} - 1));  // all lanes come to the turn
    const uint32_t token = first_page * kPageTokens + own;
    const size_t from = HeadRows{page_table, static_cast<uint32_t>(n_kv_heads), first_head + blockIdx.y}.at(token);
    const bool of_keys = blockIdx.z == 0;
    const auto* data = static_cast<const uint8_t*>(of_keys ? cache.keys : cache.values);
    const void* scales = of_keys ? cache.key_scales : cache.value_scales;
    float v[8];
    if (cache.type == CacheType::Q8) {
        read_q8(data + from * head_dim, static_cast<const __half*>(scales)[from], vector, v);
    } else {
        const void* fine = of_keys ? cache.fine_keys : cache.fine_values;
        const uint8_t* fine_codes = token / kPageTokens >= fresh_page ? fine_row(cache, fine, from, n_kv_heads, head_dim) : nullptr;
        read_q4(data + from * (head_dim / 2), fine_codes, static_cast<const __half2*>(scales) + 2 * from, vector, vectors, v);
        if (of_keys) {
            const __half* centre = centre_of(cache, from / kPageTokens / n_kv_heads, first_head + blockIdx.y, head_dim) + vector * 8;
#pragma unroll
            for (int n = 0; n < 8; ++n) v[n] += __half2float(centre[n]);
        }
    }
    turn_eights(v, head_dim);
    if (at >= static_cast<size_t>(n_keys) * vectors) return;
    const uint4 values = {pack<__half>(v[0], v[1]), pack<__half>(v[2], v[3]), pack<__half>(v[4], v[5]), pack<__half>(v[6], v[7])};
    const size_t half = static_cast<size_t>(ceil_div(n_keys, kPageTokens)) * gridDim.y * kPageTokens;
    const size_t to = blockIdx.z * half + HeadRows{nullptr, gridDim.y, blockIdx.y}.at(own);
    reinterpret_cast<uint4*>(out)[to * vectors + vector] = values;
}

/// Key heads that the workspace holds at a time, and in how many passes that is all of them; where it does not hold one, in how
/// many pieces of pages it holds that.
struct Passes {
    uint32_t heads = 0, count = 0;  // 0: no room
    uint32_t pieces = 1;
    size_t offset = kDequantizedOffset;  // of what is dequantized, in the workspace

    Passes(const Card& card, const PrefillArgs& args) {
        const uint32_t kv_heads = args.shape.n_kv_heads;
        if (has_room_to_dequantize(args)) {
            const size_t room = args.workspace_bytes - kDequantizedOffset;
            const size_t fit = room / dequantized_head_bytes(args.shape, context_of(args));
            count = ceil_div(kv_heads, static_cast<uint32_t>(std::min<size_t>(kv_heads, fit)));
            heads = ceil_div(kv_heads, count);
            return;
        }
        const size_t page = dequantized_head_bytes(args.shape, 1);
        const uint32_t before = args.start / kPageTokens, pages = pages_for(context_of(args));
        const QueryBlocks blocks(args.start, args.n_queries, args.scheme.chunk_size, sm90_block_rows(args.shape.head_dim));
        for (pieces = 2; pieces <= before; ++pieces) {
            offset = pieces_offset(card, args.shape, blocks.count, pieces);
            if (offset > args.workspace_bytes) break;
            if (ceil_div(before, pieces) + pages - before > (args.workspace_bytes - offset) / page) continue;
            heads = 1;
            count = kv_heads;
            return;
        }
    }

    /// Those of the pages before the first query's are cut evenly; the last has the others besides, so that no query finds a piece
    /// without a key.
    KeyPiece piece(const PrefillArgs& args, uint32_t number) const {
        const uint64_t before = args.start / kPageTokens;
        const auto border = [&](uint32_t n) { return static_cast<uint32_t>(before * n / pieces); };
        return {border(number), number + 1 == pieces ? pages_for(context_of(args)) : border(number + 1), number, pieces};
    }

    /// Behind the parts of so many blocks of queries of one key head, or of fewer that are cut so that they fill the card.
    static size_t pieces_offset(const Card& card, const AttentionShape& shape, uint64_t blocks, uint64_t pieces) {
        const uint64_t items = std::max<uint64_t>(blocks * (shape.n_heads / shape.n_kv_heads), card.multiprocessors);
        const size_t bytes = kCounterBytes + items * pieces * sm90_part_bytes(shape.head_dim);
        return (bytes + 255) / 256 * 256;
    }
};

}  // namespace

bool has_room_to_dequantize(const PrefillArgs& args) {
    return args.workspace_bytes >= kDequantizedOffset + dequantized_head_bytes(args.shape, context_of(args));
}

bool has_room_for_pieces(const Card& card, const PrefillArgs& args) {
    return !has_room_to_dequantize(args) && variant_of(args) == Variant::Plain &&
           prefill_sm90_takes_pieces(card, args.shape, args.scheme) && Passes(card, args).heads != 0;
}

size_t prefill_pieces_bytes(const Card& card, const AttentionShape& shape, const Scheme& scheme, uint32_t context, uint32_t n_queries,
                            size_t dequantized) {
    const size_t page = dequantized_head_bytes(shape, 1);
    const uint32_t own = pages_for(n_queries) + 1, held = static_cast<uint32_t>(dequantized / page);
    if (!prefill_sm90_takes_pieces(card, shape, scheme) || held <= own) return 0;
    const uint32_t pieces = ceil_div(pages_for(context), held - own);
    // A chunk's border cuts a block in two, and so does a call's first query.
    const uint64_t blocks = n_queries / sm90_block_rows(shape.head_dim) + n_queries / scheme.chunk_size + 3;
    return Passes::pieces_offset(card, shape, blocks, pieces) + size_t{held} * page;
}

bool dequantizing_pays(const Card& card, const PrefillArgs& args) {
    if (args.traits.window != 0) return false;  // most of the keys are seen by nobody
    if (!has_room_to_dequantize(args) && !has_room_for_pieces(card, args)) return false;
    // Dequantizing moves 10 bytes a value and the sm_80 kernel runs at half the speed: even at about 270
    // queries a key head, counting the query heads that share it, or where these leave multiprocessors idle at fewer.
    constexpr uint64_t kLeastQueries = 512;
    const uint32_t group = args.shape.n_heads / args.shape.n_kv_heads, blocks = ceil_div(args.n_queries, kPageTokens);
    const uint32_t idle = std::max(1u, card.multiprocessors / (args.shape.n_heads * blocks));
    const bool splits = variant_of(args) == Variant::Plain && args.start >= 2 * kLeastPartKeys;
    if (uint64_t{args.n_queries} * group * (splits ? idle : 1) < kLeastQueries) return false;
    if (splits) return true;
    // A pass of a few heads over few queries leaves multiprocessors idle.
    const Passes passes(card, args);
    const auto rounds = [&](uint32_t heads) { return ceil_div(heads * blocks, card.multiprocessors); };
    return passes.count * rounds(passes.heads * group) <= 2 * rounds(args.shape.n_heads);
}

cudaError_t launch_prefill_dequantized(const Card& card, const PrefillArgs& args, PrefillLaunch kernel, cudaStream_t stream) {
    const uint32_t kv_heads = args.shape.n_kv_heads, group = args.shape.n_heads / args.shape.n_kv_heads;
    const Passes passes(card, args);
    __half* dequantized = reinterpret_cast<__half*>(static_cast<uint8_t*>(args.workspace) + passes.offset);

    for (uint32_t first = 0; first < kv_heads; first += passes.heads) {
        const uint32_t heads = std::min(passes.heads, kv_heads - first);
        const size_t first_value = static_cast<size_t>(first) * group * args.shape.head_dim;
        PrefillArgs part = args;
        part.shape.n_kv_heads = heads;
        part.shape.n_heads = heads * group;
        part.page_table = nullptr;
        if (args.traits.sinks) part.traits.sinks = args.traits.sinks + size_t{first} * group;
        part.q = static_cast<const uint16_t*>(args.q) + first_value;
        part.out = static_cast<uint16_t*>(args.out) + first_value;
        part.lists = args.lists.from_head(first * group);
        for (uint32_t number = 0; number < passes.pieces; ++number) {
            const KeyPiece piece = passes.piece(args, number);
            if (passes.pieces > 1) part.piece = piece;
            const uint32_t pages = piece.end - piece.begin;
            const uint32_t n_keys = std::min(pages * kPageTokens, static_cast<uint32_t>(context_of(args)) - piece.begin * kPageTokens);
            const size_t vectors = static_cast<size_t>(n_keys) * (args.shape.head_dim / 8);
            const dim3 grid(static_cast<uint32_t>((vectors + kThreads - 1) / kThreads), heads, 2);
            dequantize_kernel<<<grid, kThreads, 0, stream>>>(args.cache, args.page_table, args.shape.n_kv_heads, args.shape.head_dim, first,
                                                             piece.begin, n_keys, args.fresh_page, dequantized);
            cudaError_t error = cudaGetLastError();
            if (error != cudaSuccess) return error;
            const size_t half = size_t{pages} * heads * kPageTokens * args.shape.head_dim;
            part.cache = {dequantized, dequantized + half, nullptr, nullptr, pages, CacheType::F16};
            error = kernel(card, part, stream);
            if (error != cudaSuccess) return error;
        }
    }
    return cudaSuccess;
}

}  // namespace dca::cuda
