// Which pages of keys a block of a prompt's queries reads (docs/sparse.md); the numbers that every device and the reference
// must agree on.
#pragma once

#include <cstdint>
#include <vector>

#include "core/positions/host_device.h"

namespace dca {

/// How many columns (keys) and diagonals (distances) a head of queries reads.
struct LineBudget {
    uint32_t columns, diagonals;
};

/// What a file states of them (docs/format.md).
struct StatedBudgets {
    std::vector<LineBudget> heads;  // (n_layers, n_heads); empty: none are stated
    uint32_t from = 0;              // queries at indices below are dense
    uint32_t last_queries = 0;      // that choose, of those that are evaluated together
};

/// How the tokens of a prompt attend. Tokens generated one at a time always read everything.
struct PrefillSpec {
    bool sparse = false;
    float alpha = 0.0f;                     // a page is kept whose weight is at least this share of the heaviest page's; 0: all are
    uint32_t from = 0;                      // queries at indices below are dense
    bool record = false;                    // keep what was chosen, to be read (Executor::selection)
    const StatedBudgets* stated = nullptr;  // the model's, if queries read what those let them; `sparse` and `alpha` are not used then

    /// Whether some queries read less than everything.
    bool chooses() const noexcept { return sparse || stated != nullptr; }

    /// Whether two give the same keys and values; recording changes none.
    bool operator==(const PrefillSpec& other) const noexcept {
        return sparse == other.sparse && stated == other.stated && (!chooses() || (alpha == other.alpha && from == other.from));
    }
    /// How many tokens from the start are as in dense prefill.
    uint32_t dense_tokens() const noexcept { return chooses() ? from : UINT32_MAX; }
};

constexpr uint32_t kSparseFrom = 4096;  // PrefillSpec::from where nobody says: below, the pages kept in any case are most of all
constexpr uint32_t kSinkPages = 2;      // the first pages, always read
constexpr uint32_t kLocalPages = 4;     // so many pages before the query's own, always read like that one
constexpr uint32_t kDenseTail = 256;    // a prompt's last tokens, what is asked there, always read everything

constexpr uint32_t kSinkColumns = 30;      // of stated budgets: the first keys come before all other columns
constexpr uint32_t kLocalDiagonals = 100;  // and the nearest distances before all other diagonals
constexpr uint32_t kFewestTogether = 9;    // tokens of a sequence in a step: fewer read everything

/// Whether queries of page `own` read `page` in any case.
DCA_HOST_DEVICE bool always_read(uint32_t page, uint32_t own) { return page < kSinkPages || page + kLocalPages >= own; }

}  // namespace dca
