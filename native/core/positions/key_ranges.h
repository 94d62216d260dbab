// How work is cut along the key ranges of a scheme (core/positions/scheme.h); host and device.
//
// All queries of one chunk share the ranges' borders, so a block of queries inside one chunk walks
// them together. Where the border moves with the query, a block's ranges are what some query of it sees, and the distance
// says which of those keys each query sees (Distances). Tiles of keys start at multiples of their size, whatever the
// ranges, so that each lies in one page of a cache: a tile that a border cuts belongs to both ranges and is visited once
// for each.
#pragma once

#include <cstdint>

#include "core/positions/host_device.h"
#include "core/positions/scheme.h"

namespace dca {

DCA_HOST_DEVICE uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }

/// The far keys, from index 0 on, that the last of the queries below `queries_end` sees, where the border moves.
DCA_HOST_DEVICE uint32_t far_keys(const Scheme& scheme, uint32_t queries_end) {
    const uint32_t far = queries_end > scheme.window ? queries_end - scheme.window : 0;
    return scheme.border == Border::String || far < scheme.beyond ? far : scheme.beyond;
}

/// Ranges that queries of `chunk` see where the border does not move; they are Intra, Successive, Inter, in that order.
DCA_HOST_DEVICE uint32_t range_count(const Scheme& scheme, uint32_t chunk) { return scheme.intra_only ? 1 : chunk < 2 ? chunk + 1 : 3; }

/// Ranges that queries of `chunk` at indices below `queries_end` see; where the border moves Near, Far, ..., in that order.
DCA_HOST_DEVICE uint32_t range_count(const Scheme& scheme, uint32_t chunk, uint32_t queries_end) {
    if (!scheme.moves()) return range_count(scheme, chunk);
    const uint32_t far = far_keys(scheme, queries_end);
    return 1 + (scheme.border == Border::LmInfinite || far == 0 ? far : 1);
}

/// Keys [begin, end).
struct KeyRange {
    uint32_t begin, end;
};

/// The keys of `range` for queries of `chunk` at indices below `queries_end`, as far as their distances allow. With kMoves
/// false the border is known not to move.
template <bool kMoves = true>
DCA_HOST_DEVICE KeyRange key_range(const Scheme& scheme, uint32_t chunk, Range range, uint32_t queries_end) {
    if (kMoves && scheme.moves()) {
        if (range == Range::Near) return {0, queries_end};
        const uint32_t key = static_cast<uint32_t>(range) - static_cast<uint32_t>(Range::Far);
        return scheme.border == Border::LmInfinite ? KeyRange{key, key + 1} : KeyRange{0, far_keys(scheme, queries_end)};
    }
    const uint32_t intra_begin = chunk * scheme.chunk_size;
    if (range == Range::Intra) return {intra_begin, queries_end};
    const uint32_t successive_begin = intra_begin - scheme.chunk_size;
    if (range == Range::Successive) return {successive_begin, intra_begin};
    return {0, successive_begin};
}

/// The first key that the query at `index` sees through a window of so many tokens, its own included; 0: no window.
DCA_HOST_DEVICE uint32_t window_begin(uint32_t window, uint32_t index) { return window == 0 || index < window ? 0 : index + 1 - window; }

/// The first key that queries of `chunk` see.
DCA_HOST_DEVICE uint32_t first_key(const Scheme& scheme, uint32_t chunk) { return scheme.intra_only ? chunk * scheme.chunk_size : 0; }

/// The query at index i sees those keys j of a range for which least <= i - j < below.
struct Distances {
    uint32_t least, below;
};

/// `window`: of the layer; 0: none.
DCA_HOST_DEVICE Distances distances(const Scheme& scheme, Range range, uint32_t window = 0) {
    Distances seen{0, window == 0 ? Scheme::kEndless : window};
    if (!scheme.moves()) return seen;
    if (range != Range::Near) seen.least = scheme.window;
    if (range == Range::Near && scheme.window < seen.below) seen.below = scheme.window;
    return seen;
}

/// The first of a range's keys that the query at `index` sees.
DCA_HOST_DEVICE uint32_t first_of_range(const Scheme& scheme, Range range, const KeyRange& keys, uint32_t index, uint32_t window = 0) {
    const uint32_t begin = window_begin(distances(scheme, range, window).below, index);
    return keys.begin < begin ? begin : keys.begin;
}

/// The keys between the far and the near ones, which the query at `index` does not see at all; an empty range where it sees
/// everything from first_key() on.
DCA_HOST_DEVICE KeyRange unseen_keys(const Scheme& scheme, uint32_t index) {
    if (!scheme.moves() || index < scheme.window) return {0, 0};
    return {far_keys(scheme, index + 1), index + 1 - scheme.window};
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

/// Walks the key tiles of one query block backwards, from the diagonal to index 0: ranges in the order
/// of Range, each from its end, so that the masked tiles of the diagonal come first. With kWindowed also through a window, of
/// the layer or because the border moves: each range then ends at the first of its keys that the block's first query sees.
template <uint32_t kTileKeys, bool kWindowed = false>
struct TileWalk {
    const Scheme& scheme;
    uint32_t chunk, first_query, queries_end;
    uint32_t window;  // 0: none
    uint32_t ranges;
    uint32_t range_index;  // as Range
    uint32_t range_end;    // keys of the current range end here
    uint32_t range_begin;
    uint32_t key;  // the current tile's first key, a multiple of kTileKeys; may lie before range_begin
    bool entered;  // the current tile is the first of its range

    DCA_HOST_DEVICE TileWalk(const Scheme& scheme_, const QueryBlock& block, uint32_t window_ = 0)
        : scheme(scheme_),
          chunk(block.chunk),
          first_query(block.first),
          queries_end(block.first + block.rows),
          window(window_),
          ranges(kWindowed ? range_count(scheme_, block.chunk, queries_end) : range_count(scheme_, block.chunk)),
          range_index(0) {
        if constexpr (kWindowed) {
            while (ranges > 1 && nothing_seen(static_cast<Range>(ranges - 1))) --ranges;
        }
        enter();
    }

    DCA_HOST_DEVICE Range range() const { return static_cast<Range>(range_index); }
    /// The keys of the current range; with kWindowed as far as the block sees them.
    DCA_HOST_DEVICE KeyRange keys() const { return {range_begin, range_end}; }
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

    /// Tiles of the current range behind the current one.
    DCA_HOST_DEVICE uint32_t left_in_range() const { return key / kTileKeys - range_begin / kTileKeys; }

    /// As next(), `tiles` times; there must be so many.
    DCA_HOST_DEVICE void skip(uint32_t tiles) {
        while (tiles > left_in_range()) {
            tiles -= left_in_range() + 1;
            ++range_index;
            enter();
        }
        if (tiles == 0) return;
        key -= tiles * kTileKeys;
        entered = false;
    }

    /// The current tile and all that follow it.
    DCA_HOST_DEVICE uint32_t left() const {
        TileWalk rest = *this;
        uint32_t tiles = rest.left_in_range() + 1;
        while (!rest.in_last_range()) {
            ++rest.range_index;
            rest.enter();
            tiles += rest.left_in_range() + 1;
        }
        return tiles;
    }

private:
    DCA_HOST_DEVICE bool nothing_seen(Range of) const {
        const KeyRange keys = key_range(scheme, chunk, of, queries_end);
        return first_of_range(scheme, of, keys, first_query, window) >= keys.end;
    }
    DCA_HOST_DEVICE void enter() {
        const KeyRange keys = key_range<kWindowed>(scheme, chunk, range(), queries_end);
        range_begin = kWindowed ? first_of_range(scheme, range(), keys, first_query, window) : keys.begin;
        range_end = keys.end;
        key = (keys.end - 1) / kTileKeys * kTileKeys;
        entered = true;
    }
};

/// A tile's keys, from `key` on, as far as they lie in the range's [begin, end).
struct KeyTile {
    Range range;
    uint32_t key, begin, end;

    DCA_HOST_DEVICE bool holds(uint32_t i) const { return i - begin < end - begin; }
};

/// The ranges of the newest of `length` tokens, three at most, cut into tiles of kTileKeys keys, in ascending order; with
/// kWindowed only what is seen of them through a window, of the layer or because the border moves.
template <uint32_t kTileKeys, bool kWindowed = false>
struct KeyTiles {
    const Scheme& scheme;
    uint32_t chunk, length, window, inter, successive, count;  // the last three: tiles up to and including each range

    DCA_HOST_DEVICE KeyTiles(const Scheme& scheme_, uint32_t length_, uint32_t window_ = 0)
        : scheme(scheme_), chunk((length_ - 1) / scheme_.chunk_size), length(length_), window(window_) {
        const uint32_t ranges = count_ranges();
        inter = ranges > 2 ? tiles_of(Range::Inter) : 0;
        successive = inter + (ranges > 1 ? tiles_of(Range::Successive) : 0);
        count = successive + tiles_of(Range::Intra);
    }

    /// How many tiles there are before `key`, a multiple of kTileKeys.
    DCA_HOST_DEVICE uint32_t before(uint32_t key) const {
        uint32_t tiles = 0;
        for (uint32_t range = 0; range < count_ranges(); ++range) {
            const KeyRange keys = seen(static_cast<Range>(range));
            const uint32_t first = keys.begin / kTileKeys, end = ceil_div(keys.end, kTileKeys), past = key / kTileKeys;
            if (past > first) tiles += (past < end ? past : end) - first;
        }
        return tiles;
    }

    DCA_HOST_DEVICE KeyTile at(uint32_t index) const {
        const Range range = index < inter ? Range::Inter : index < successive ? Range::Successive : Range::Intra;
        const uint32_t first = range == Range::Inter ? 0 : range == Range::Successive ? inter : successive;
        const KeyRange keys = seen(range);
        return {range, (keys.begin / kTileKeys + index - first) * kTileKeys, keys.begin, keys.end};
    }

private:
    DCA_HOST_DEVICE uint32_t count_ranges() const { return kWindowed ? range_count(scheme, chunk, length) : range_count(scheme, chunk); }
    DCA_HOST_DEVICE KeyRange seen(Range range) const {
        KeyRange keys = key_range<kWindowed>(scheme, chunk, range, length);
        if constexpr (kWindowed) keys.begin = first_of_range(scheme, range, keys, length - 1, window);
        return keys;
    }
    DCA_HOST_DEVICE uint32_t tiles_of(Range range) const {
        const KeyRange keys = seen(range);
        if (kWindowed && keys.begin >= keys.end) return 0;
        return ceil_div(keys.end, kTileKeys) - keys.begin / kTileKeys;
    }
};

}  // namespace dca
