// A walk over the tiles of listed pages, in place of TileWalk (core/positions/key_ranges.h), which visits all.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/page_lists.h"

namespace dca::cuda {

template <uint32_t kTileKeys>
struct ListWalk {
    static_assert(kPageTokens % kTileKeys == 0);

    const Scheme& scheme;
    const ListedPage* list;  // of the current page
    uint32_t left;           // entries behind that
    ListedPage entry;        // the current page's
    uint32_t chunk, queries_end;
    uint32_t range_end;  // keys of the current range end here
    uint32_t range_begin;
    uint32_t key;  // the current tile's first key, a multiple of kTileKeys; may lie before range_begin
    bool entered;  // the current tile is the first of its range

    __device__ __forceinline__ ListWalk(const Scheme& scheme_, const ListedBlock& block, const ListedPage* list_)
        : scheme(scheme_), list(list_), left(block.count - 1), chunk(block.chunk), queries_end(block.first + block.rows) {
        entry.bits = __ldg(&list->bits);
        enter_range();
        enter_page();
    }

    __device__ __forceinline__ Range range() const { return static_cast<Range>(entry.range()); }
    /// The first page is in every list, and in the last range.
    __device__ __forceinline__ bool in_last_range() const { return entry.range() + 1 == range_count(scheme, chunk); }

    __device__ __forceinline__ bool next() {
        entered = false;
        if constexpr (kTileKeys < kPageTokens) {
            if (key % kPageTokens != 0 && key > range_begin) {
                key -= kTileKeys;
                return true;
            }
        }
        if (left == 0) return false;
        ++list, --left;
        const uint32_t before = entry.range();
        entry.bits = __ldg(&list->bits);
        if (entry.range() != before) enter_range();
        enter_page();
        return true;
    }

private:
    __device__ __forceinline__ void enter_range() {
        const KeyRange keys = key_range<false>(scheme, chunk, range(), queries_end);
        range_begin = keys.begin;
        range_end = keys.end;
        entered = true;
    }
    __device__ __forceinline__ void enter_page() {
        const uint32_t begin = entry.page() * kPageTokens, end = begin + kPageTokens;
        key = kTileKeys == kPageTokens ? begin : ((end < range_end ? end : range_end) - 1) / kTileKeys * kTileKeys;
    }
};

}  // namespace dca::cuda
