// Which logits of a tile a prefill kernel must not see. They lie in tensor core accumulators, as
// softmax.cuh says.
#pragma once

#include "core/positions/key_ranges.h"

namespace dca::cuda {

/// Sets logits of columns at or past `limit` (per row) to minus infinity. Columns count from this
/// thread's first one, so `limit` may be negative.
template <int kCount>
__device__ __forceinline__ void mask_columns(float (&s)[kCount], const int (&limit)[2]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n)
        if (n / 4 * 8 + n % 2 >= limit[n / 2 % 2]) s[n] = -INFINITY;
}

/// Masks the keys of a walk's current tile that lie past the range or, in the intra range, after the query.
template <int kTileKeys>
struct TileMask {
    bool causal;
    bool needed;  // for some row
    int limit;    // of row 0, from this thread's first column

    /// `first_query` is the index of the query in row 0.
    __device__ __forceinline__ TileMask(const TileWalk<kTileKeys>& walk, int lane, uint32_t first_query) {
        causal = walk.range() == Range::Intra;
        const uint32_t first_limit = causal ? first_query + 1 : walk.range_end;
        needed = walk.key + kTileKeys > first_limit;
        limit = static_cast<int>(first_limit - walk.key) - lane % 4 * 2;
    }

    /// s holds this thread's rows `row` and row + 8.
    template <int kCount>
    __device__ __forceinline__ void apply(float (&s)[kCount], int row) const {
        if (!needed) return;
        const int limits[2] = {limit + (causal ? row : 0), limit + (causal ? row + 8 : 0)};
        mask_columns(s, limits);
    }
};

}  // namespace dca::cuda
