// Which logits of a tile a prefill kernel must not see. They lie in tensor core accumulators, as
// softmax.cuh says.
#pragma once

#include "core/positions/key_ranges.h"

namespace dca::cuda {

/// Sets logits of columns before `begin` and at or past `limit` (per row) to minus infinity. Columns count from this
/// thread's first one, so both may be negative.
template <int kCount>
__device__ __forceinline__ void mask_columns(float (&s)[kCount], int begin, const int (&limit)[2]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        const int column = n / 4 * 8 + n % 2;
        if (column < begin || column >= limit[n / 2 % 2]) s[n] = -INFINITY;
    }
}

/// Masks the keys of a walk's current tile (TileWalk, ListWalk) that lie outside of the range or, in the intra range, after the
/// query.
template <int kTileKeys>
struct TileMask {
    bool causal;
    bool needed;  // for some row
    int begin;    // these from this thread's first column
    int limit;    // of row 0

    /// `first_query` is the index of the query in row 0. The tile's columns were loaded from `back` keys before its
    /// first one on.
    template <class Walk>
    __device__ __forceinline__ TileMask(const Walk& walk, int lane, uint32_t first_query, uint32_t back = 0) {
        causal = walk.range() == Range::Intra;
        const uint32_t first_limit = causal ? first_query + 1 : walk.range_end;
        needed = walk.key + kTileKeys > first_limit || walk.key < walk.range_begin || back > 0;
        const uint32_t first_key = walk.key > walk.range_begin ? walk.key : walk.range_begin;
        const int before = static_cast<int>(back) - lane % 4 * 2;
        begin = static_cast<int>(first_key - walk.key) + before;
        limit = static_cast<int>(first_limit - walk.key) + before;
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
        mask_columns(s, begin, limits);
    }
};

}  // namespace dca::cuda
