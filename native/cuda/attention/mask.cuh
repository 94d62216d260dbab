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

/// Masks the keys of a walk's current tile (TileWalk, ListWalk) that lie outside of the range or the query's window or, in the
/// intra range, after the query.
template <int kTileKeys, bool kWindowed = false>
struct TileMask {
    bool causal;
    bool needed;  // for some row
    int begin;    // these from this thread's first column
    int limit;    // of row 0
    int seen;     // where the window of row 0 begins, which may be before the first key

    /// `first_query` is the index of the query in row 0. The tile's columns were loaded from `back` keys before its
    /// first one on. With `window` 0 there is none.
    template <class Walk>
    __device__ __forceinline__ TileMask(const Walk& walk, int lane, uint32_t first_query, uint32_t back = 0, uint32_t window = 0) {
        causal = walk.range() == Range::Intra;
        const uint32_t first_limit = causal ? first_query + 1 : walk.range_end;
        needed = walk.key + kTileKeys > first_limit || walk.key < walk.range_begin || back > 0;
        const uint32_t first_key = walk.key > walk.range_begin ? walk.key : walk.range_begin;
        const int before = static_cast<int>(back) - lane % 4 * 2;
        begin = static_cast<int>(first_key - walk.key) + before;
        limit = static_cast<int>(first_limit - walk.key) + before;
        if constexpr (kWindowed) {
            needed = needed || walk.key < window_begin(window, walk.queries_end - 1);
            const int64_t first_seen = window == 0 ? -int64_t{Scheme::kEndless / 2} : int64_t{first_query} + 1 - window;
            seen = static_cast<int>(max(first_seen - walk.key, -int64_t{Scheme::kEndless / 2})) + before;
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
        const int limits[2] = {limit + (causal ? row : 0), limit + (causal ? row + 8 : 0)};
        if constexpr (kWindowed) {
            const int begins[2] = {max(begin, seen + row), max(begin, seen + row + 8)};
            mask_columns(s, begins, limits);
        } else {
            const int begins[2] = {begin, begin};
            mask_columns(s, begins, limits);
        }
    }
};

}  // namespace dca::cuda
