// What sparse prefill reads: for each head and block of queries a list of pages. sparse/select_pages.h makes the lists, the
// prefill kernels walk them (list_walk.cuh).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/engine/page_pool.h"
#include "core/positions/host_device.h"
#include "core/positions/scheme.h"

namespace dca::cuda {

/// Queries whose indices agree but for their last five bits choose together (docs/sparse.md): a quarter of a page.
constexpr uint32_t kQuarter = 32;
constexpr uint32_t kQuarters = kPageTokens / kQuarter;

/// Queries [first, first + rows), all of one page of the sequence and of one chunk, and how long their list is.
struct ListedBlock {
    uint32_t first, rows, chunk, count;

    /// Of how many queries quarter `n` of their page consists, as far as they are the block's.
    DCA_HOST_DEVICE uint32_t rows_of(uint32_t n) const {
        const uint32_t from = first % kPageTokens, to = from + rows, begin = n * kQuarter, end = begin + kQuarter;
        const uint32_t low = from > begin ? from : begin, high = to < end ? to : end;
        return high > low ? high - low : 0;
    }
};

/// The keys of one page that lie in one range, and which quarters read them. Lists go as TileWalk does: ranges from the
/// nearest on, pages descending.
struct ListedPage {
    uint32_t bits;  // quarters in the lowest four, then two of the range, then the page's index in the sequence

    DCA_HOST_DEVICE static ListedPage of(uint32_t page, Range range, uint32_t quarters) {
        return {page << 6 | static_cast<uint32_t>(range) << 4 | quarters};
    }
    DCA_HOST_DEVICE uint32_t page() const { return bits >> 6; }
    DCA_HOST_DEVICE uint32_t range() const { return bits >> 4 & 3; }
    DCA_HOST_DEVICE uint32_t quarters() const { return bits & 15; }
};
static_assert(kQuarters == 4 && Scheme::kEndless / kPageTokens <= 1u << 26);

/// The lists of a call, in device memory.
struct PageLists {
    const ListedBlock* blocks;  // (n_heads, n_blocks); null: there are no lists, everything is read
    const ListedPage* pages;    // (n_heads, n_blocks, most_pages)
    uint32_t n_blocks, most_pages;

    /// Those of the heads from `head` on.
    PageLists from_head(uint32_t head) const {
        if (blocks == nullptr) return *this;
        const size_t skipped = static_cast<size_t>(head) * n_blocks;
        return {blocks + skipped, pages + skipped * most_pages, n_blocks, most_pages};
    }
};

}  // namespace dca::cuda
