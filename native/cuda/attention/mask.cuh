// Which logits of a tile a prefill kernel must not see. They lie in tensor core accumulators, as
// softmax.cuh says.
#pragma once

#include "core/positions/key_ranges.h"

namespace dca::cuda {

/// Sets logits of columns before `begin` and at or past `limit` (per row) to minus infinity. Columns count from this
/// thread's first one, so both may be negative.
template <int kCount>
__device__ __forceinline__ void mask_columns(float (&s)[kCount], const int (&begin)[2], const int (&limit)[2]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        const int column = n / 4 * 8 + n % 2;
        if (column < begin[n / 2 % 2] || column >= limit[n / 2 % 2]) s[n] = -INFINITY;
    }
}

/// Masks the keys of a walk's current tile (TileWalk, ListWalk) that lie outside of the range or, in the intra range, after the
/// query; with kWindowed also those at distances that the range does not have (core/positions/key_ranges.h).
template <int kTileKeys, bool kWindowed = false>
struct TileMask {
    bool causal;
    bool needed;  // for some row
    int begin;    // these from this thread's first column
    int limit;    // of row 0
    int seen;     // where the window of row 0 begins, which may be before the first key
    int last;     // limit of any row

    /// `first_query` is the index of the query in row 0. The tile's columns were loaded from `back` keys before its
    /// first one on. With `window` 0 the layer has none.
    template <class Walk>
    __device__ __forceinline__ TileMask(const Walk& walk, int lane, uint32_t first_query, uint32_t back = 0, uint32_t window = 0) {
        const KeyRange keys = walk.keys();
        const uint32_t first_key = walk.key > keys.begin ? walk.key : keys.begin;
        const int before = static_cast<int>(back) - lane % 4 * 2;
        begin = static_cast<int>(first_key - walk.key) + before;
        causal = walk.range() == Range::Intra;
        if constexpr (kWindowed) {
            const Distances of_range = distances(walk.scheme, walk.range(), window);
            const auto column = [&](int64_t key) { return static_cast<int>(max(key - walk.key, -int64_t{Scheme::kEndless / 2})) + before; };
            causal = causal || of_range.least > 0;
            last = column(keys.end);
            limit = causal ? column(int64_t{first_query} + 1 - of_range.least) : last;
            seen = column(int64_t{first_query} + 1 - of_range.below);
            needed = kTileKeys + before > min(limit, last) || walk.key < keys.begin || back > 0 ||
                     walk.key < window_begin(of_range.below, walk.queries_end - 1);
        } else {
            const uint32_t first_limit = causal ? first_query + 1 : keys.end;
            needed = walk.key + kTileKeys > first_limit || walk.key < keys.begin || back > 0;
            limit = static_cast<int>(first_limit - walk.key) + before;
        }
    }

    /// Masks the whole tile.
    __device__ __forceinline__ void hide() {
        causal = false;
        needed = true;
        limit = -1;
    }

    /// s holds this thread's rows `row` and row + 8.
    template <int kCount>
    __device__ __forceinline__ void apply(float (&s)[kCount], int row) const {
        if (!needed) return;
        int limits[2] = {limit + (causal ? row : 0), limit + (causal ? row + 8 : 0)};
        int begins[2] = {begin, begin};
        if constexpr (kWindowed) {
            limits[0] = min(limits[0], last), limits[1] = min(limits[1], last);
            begins[0] = max(begin, seen + row), begins[1] = max(begin, seen + row + 8);
        }
        mask_columns(s, begins, limits);
    }
};

}  // namespace dca::cuda
