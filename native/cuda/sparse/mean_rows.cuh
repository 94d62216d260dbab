// Which mean keys a block of queries is scored against in one of its ranges.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/page_lists.h"
#include "cuda/sparse/select_pages.h"

namespace dca::cuda {

/// Rows of means: first one for each full page before the queries' own that has keys in the range, then one more for each
/// chunk border inside the range, where pages that it cuts have their second side. A border between two pages adds a row
/// that repeats a page's.
struct MeanRows {
    uint32_t first_page, pages, extras;
    uint32_t chunk_size;
    bool begins_in_page;  // the range does: its first page counts with its second side

    __device__ __forceinline__ MeanRows(const Scheme& scheme, const ListedBlock& block, Range range) : chunk_size(scheme.chunk_size) {
        const KeyRange keys = key_range<false>(scheme, block.chunk, range, block.first + block.rows);
        const uint32_t own = block.first / kPageTokens, end_page = ceil_div(keys.end, kPageTokens);
        first_page = keys.begin / kPageTokens;
        const uint32_t stop = end_page < own ? end_page : own;
        pages = stop > first_page ? stop - first_page : 0;
        begins_in_page = keys.begin % kPageTokens != 0;
        extras = range == Range::Inter && chunk_size % kPageTokens != 0 ? block.chunk - 2 : 0;
    }

    __device__ __forceinline__ uint32_t count() const { return pages + extras; }

    struct Place {
        uint32_t page, side;
    };
    __device__ __forceinline__ Place at(uint32_t row) const {
        if (row < pages) return {first_page + row, row == 0 && begins_in_page ? 1u : 0u};
        const uint32_t border = (row - pages + 1) * chunk_size;
        return {border / kPageTokens, border % kPageTokens != 0 ? 1u : 0u};
    }

    /// The row of the second side of a page of the range that a border cuts inside of it; of the first side where none does.
    __device__ __forceinline__ uint32_t second_row(uint32_t page) const {
        const uint32_t row = page - first_page;
        if (extras == 0) return row;
        const uint32_t chunk = page * kPageTokens / chunk_size + 1;  // that begins next
        const bool cut = chunk <= extras && chunk * chunk_size < (page + 1) * kPageTokens;
        return cut ? pages + chunk - 1 : row;
    }
};

}  // namespace dca::cuda
