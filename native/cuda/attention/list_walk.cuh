// A walk over the tiles of listed pages, in place of TileWalk (core/positions/key_ranges.h), which visits all.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/page_lists.h"

namespace dca::cuda {

/// Kernels have it in registers, of which they have none to spare: what follows from something else is computed anew.
template <uint32_t kTileKeys>
struct ListWalk {
    static_assert(kPageTokens % kTileKeys == 0);

    const Scheme& scheme;
    const ListedPage* lists;  // of all blocks
    uint32_t at;              // the current page's entry there
    uint32_t last;            // the block's last one
    ListedPage entry;         // the current page's
    uint32_t chunk, queries_end;
    uint32_t key;  // the current tile's first key, a multiple of kTileKeys; may lie before those of its range
    bool entered;  // the current tile is the first of its range

    /// The block's entries are those from `first` on.
    __device__ __forceinline__ ListWalk(const Scheme& scheme_, const ListedBlock& block, const ListedPage* lists_, uint32_t first)
        : scheme(scheme_),
          lists(lists_),
          at(first),
          last(first + block.count - 1),
          chunk(block.chunk),
          queries_end(block.first + block.rows) {
        entry.bits = __ldg(&lists[at].bits);
        entered = true;
        enter_page();
    }

    __device__ __forceinline__ Range range() const { return static_cast<Range>(entry.range()); }
    /// The keys of the current range.
    __device__ __forceinline__ KeyRange keys() const { return key_range<false>(scheme, chunk, range(), queries_end); }
    /// The first page is in every list, and in the last range.
    __device__ __forceinline__ bool in_last_range() const { return entry.range() + 1 == range_count(scheme, chunk); }

    __device__ __forceinline__ bool next() {
        entered = false;
        if constexpr (kTileKeys < kPageTokens) {
            if (key % kPageTokens != 0 && key > keys().begin) {
                key -= kTileKeys;
                return true;
            }
        }
        if (at == last) return false;
        ++at;
        const uint32_t before = entry.range();
        entry.bits = __ldg(&lists[at].bits);
        entered = entry.range() != before;
        enter_page();
        return true;
    }

private:
    __device__ __forceinline__ void enter_page() {
        key = entry.page() * kPageTokens;
        if constexpr (kTileKeys < kPageTokens) {
            const uint32_t page_end = key + kPageTokens, range_end = keys().end;
            key = ((page_end < range_end ? page_end : range_end) - 1) / kTileKeys * kTileKeys;
        }
    }
};

}  // namespace dca::cuda
