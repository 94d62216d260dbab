// What prompts read that do not read everything: for each head and block of queries a list of pages, and with stated budgets which
// keys of these. sparse/select_pages.h and sparse/stated/choose_lines.h make the lists, the prefill kernels walk them (list_walk.cuh).
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

/// With stated budgets: the keys (columns) and the distances (diagonals) that each head has chosen for all queries of the call. Bit
/// n + kLineMargin of a head's words is key or distance n; those around what is in use are zero.
struct LineBits {
    const uint32_t* columns = nullptr;    // (n_heads, words) in device memory; null: pages are read whole
    const uint32_t* diagonals = nullptr;  // likewise
    uint32_t words = 0;                   // at least line_words()
};
constexpr uint32_t kLineMargin = 128;
constexpr uint32_t line_words(uint32_t context) { return pages_for(context) * (kPageTokens / 32) + 12; }

/// The lists of a call, in device memory.
struct PageLists {
    const ListedBlock* blocks;  // (n_heads, n_blocks); null: there are no lists, everything is read
    const ListedPage* pages;    // (n_heads, n_blocks, most_pages), fewer than 2^32
    uint32_t n_blocks, most_pages;
    LineBits lines = {};

    /// Those of the heads from `head` on.
    PageLists from_head(uint32_t head) const {
        if (blocks == nullptr) return *this;
        const size_t skipped = static_cast<size_t>(head) * n_blocks;
        PageLists rest = *this;
        rest.blocks += skipped;
        rest.pages += skipped * most_pages;
        if (lines.columns != nullptr) {
            rest.lines.columns += static_cast<size_t>(head) * lines.words;
            rest.lines.diagonals += static_cast<size_t>(head) * lines.words;
        }
        return rest;
    }
};

}  // namespace dca::cuda
