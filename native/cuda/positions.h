// Where Dual Chunk Attention's key ranges lie and how work is cut along them; host and device.
//
// With n = floor(i / s) and r = i mod s, the keys that the query at index i sees are three
// consecutive ranges, each with its own position for the query (eq. 2-8, An et al., ICML 2024):
//   inter       [0, (n-1)s)    c - 1
//   successive  [(n-1)s, ns)   min(s + r, c - 1) for r < w, else c - 1
//   intra       [ns, i]        r
// All queries of one chunk share the borders, so a block of queries inside one chunk walks
// them together. Kernels walk backwards, from the diagonal to index 0: the masked tiles come first.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DCA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DCA_HOST_DEVICE inline
#endif

namespace dca::cuda {

/// The integers of eq. 2-8 (An et al., ICML 2024) and the optional logit factor.
struct AttentionScheme {
    uint32_t chunk_size;          // s >= 1; 2^31: plain causal attention
    uint32_t local_window;        // w
    uint32_t pretraining_length;  // c
    int32_t intra_only;           // 1: a query sees only its own chunk (ablation)
    float logit_scale;            // a; logits times m^2, m = max(1, a ln((i + 1) / n0) + 1); 0: off
    uint32_t logit_scale_length;  // n0
};

enum class Range : uint32_t { Intra = 0, Successive = 1, Inter = 2 };

DCA_HOST_DEVICE uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

/// Ranges that a query of `chunk` sees; they are Intra, Successive, Inter, in that order.
DCA_HOST_DEVICE uint32_t range_count(const AttentionScheme& scheme, uint32_t chunk) {
    return scheme.intra_only ? 1 : chunk < 2 ? chunk + 1 : 3;
}

struct KeyRange {
    uint32_t begin, end;
};

/// The keys of `range` for queries of `chunk` at indices below `queries_end`.
DCA_HOST_DEVICE KeyRange key_range(const AttentionScheme& scheme, uint32_t chunk, Range range, uint32_t queries_end) {
    const uint32_t intra_begin = chunk * scheme.chunk_size;
    if (range == Range::Intra) return {intra_begin, queries_end};
    const uint32_t successive_begin = intra_begin - scheme.chunk_size;
    if (range == Range::Successive) return {successive_begin, intra_begin};
    return {0, successive_begin};
}

/// The position at which the query with remainder r = i mod s is rotated for keys of `range`.
DCA_HOST_DEVICE uint32_t query_position(const AttentionScheme& scheme, Range range, uint32_t r) {
    if (range == Range::Intra) return r;
    const uint32_t last = scheme.pretraining_length - 1;
    if (range == Range::Inter || r >= scheme.local_window) return last;
    return scheme.chunk_size + r < last ? scheme.chunk_size + r : last;
}

/// Queries [first, first + rows), all of one chunk.
struct QueryBlock {
    uint32_t first, rows, chunk;
};

/// The cut of queries [start, start + n_queries) into blocks that do not straddle chunk borders.
struct QueryBlocks {
    uint32_t start, end, chunk_size, max_rows;
    uint32_t first_chunk, first_chunk_blocks, blocks_per_chunk, count;

    QueryBlocks() = default;

    QueryBlocks(uint32_t start_, uint32_t n_queries, uint32_t chunk_size_, uint32_t max_rows_)
        : start(start_), end(start_ + n_queries), chunk_size(chunk_size_), max_rows(max_rows_) {
        first_chunk = start / chunk_size;
        const uint32_t left_in_chunk = chunk_size - start % chunk_size;
        blocks_per_chunk = ceil_div(chunk_size, max_rows);
        if (n_queries <= left_in_chunk) {
            count = first_chunk_blocks = ceil_div(n_queries, max_rows);
            return;
        }
        first_chunk_blocks = ceil_div(left_in_chunk, max_rows);
        const uint32_t rest = n_queries - left_in_chunk;
        count = first_chunk_blocks + rest / chunk_size * blocks_per_chunk + ceil_div(rest % chunk_size, max_rows);
    }

    DCA_HOST_DEVICE QueryBlock at(uint32_t index) const {
        QueryBlock block;
        if (index < first_chunk_blocks) {
            block.chunk = first_chunk;
            block.first = start + index * max_rows;
        } else {
            const uint32_t later = index - first_chunk_blocks;
            block.chunk = first_chunk + 1 + later / blocks_per_chunk;
            block.first = block.chunk * chunk_size + later % blocks_per_chunk * max_rows;
        }
        const uint32_t left_in_chunk = chunk_size - (block.first - block.chunk * chunk_size);
        const uint32_t left = end - block.first < left_in_chunk ? end - block.first : left_in_chunk;
        block.rows = left < max_rows ? left : max_rows;
        return block;
    }
};

/// The order in which (head, query block) pairs are worked on. Heads go in sections whose keys
/// and values fit in the L2 cache together; inside one, the longest blocks come first and the
/// query heads that share a key head stand next to each other.
struct WorkOrder {
    uint32_t n_blocks, n_heads, heads_per_section;

    struct Item {
        uint32_t head, block;
    };

    DCA_HOST_DEVICE uint32_t count() const { return n_blocks * n_heads; }

    DCA_HOST_DEVICE Item at(uint32_t index) const {
        const uint32_t per_section = heads_per_section * n_blocks;
        const uint32_t section = index / per_section;
        const uint32_t first_head = section * heads_per_section;
        const uint32_t heads = n_heads - first_head < heads_per_section ? n_heads - first_head : heads_per_section;
        const uint32_t within = index - section * per_section;
        return {first_head + within % heads, n_blocks - 1 - within / heads};
    }
};

/// Walks the key tiles of one query block: ranges in the order of Range, each tiled from its
/// own start and walked from its end, so that only tiles at a range's end need a mask.
template <uint32_t kTileKeys>
struct TileWalk {
    const AttentionScheme& scheme;
    uint32_t chunk, queries_end, ranges;
    uint32_t range_index;     // as Range
    uint32_t range_end;       // keys of the current range end here
    uint32_t range_begin;
    uint32_t key;             // the current tile's first key
    bool entered;             // the current tile is the first of its range

    DCA_HOST_DEVICE TileWalk(const AttentionScheme& scheme_, const QueryBlock& block)
        : scheme(scheme_), chunk(block.chunk), queries_end(block.first + block.rows),
          ranges(range_count(scheme_, block.chunk)), range_index(0) {
        enter();
    }

    DCA_HOST_DEVICE Range range() const { return static_cast<Range>(range_index); }
    DCA_HOST_DEVICE bool in_last_range() const { return range_index + 1 == ranges; }

    DCA_HOST_DEVICE bool next() {
        if (key > range_begin) {
            key -= kTileKeys;
            entered = false;
            return true;
        }
        if (in_last_range()) return false;
        ++range_index;
        enter();
        return true;
    }

private:
    DCA_HOST_DEVICE void enter() {
        const KeyRange keys = key_range(scheme, chunk, range(), queries_end);
        range_begin = keys.begin;
        range_end = keys.end;
        key = keys.begin + (keys.end - keys.begin - 1) / kTileKeys * kTileKeys;
        entered = true;
    }
};

}  // namespace dca::cuda
