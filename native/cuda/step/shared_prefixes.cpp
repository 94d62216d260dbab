#include "cuda/step/shared_prefixes.h"

#include <algorithm>

#include "core/engine/page_pool.h"

namespace dca::cuda {

namespace {

constexpr uint32_t kLeastPages = 8;  // worth a launch and a merge

/// Pages that both begin with and that hold neither's newest token.
uint32_t common_pages(const LoneRow& a, const LoneRow& b) {
    const uint32_t most = (std::min(a.length, b.length) - 1) / kPageTokens;
    const auto differ = std::mismatch(a.pages.begin(), a.pages.begin() + most, b.pages.begin());
    return static_cast<uint32_t>(differ.first - a.pages.begin());
}

}  // namespace

std::vector<DecodeGroup> find_groups(std::span<const LoneRow> rows, const Scheme& scheme, uint32_t most_rows) {
    std::vector<DecodeGroup> groups;
    if (most_rows < 2 || scheme.intra_only || scheme.moves()) return groups;
    most_rows = std::min(most_rows, kMostGroupRows);
    std::vector<bool> taken(rows.size(), false);
    for (uint32_t first = 0; first < rows.size(); ++first) {
        if (taken[first]) continue;
        DecodeGroup group{1, 0, {static_cast<uint16_t>(first)}};
        uint32_t shared = (rows[first].length - 1) / kPageTokens, longest = rows[first].length;
        for (uint32_t other = first + 1; other < rows.size() && group.rows < most_rows; ++other) {
            const bool one_chunk = (rows[other].length - 1) / scheme.chunk_size == (rows[first].length - 1) / scheme.chunk_size;
            if (taken[other] || !one_chunk) continue;
            const uint32_t tokens = std::max(longest, rows[other].length);
            const uint32_t needed = std::max(kLeastPages, pages_for(tokens) / 2);
            const bool enough = needed <= shared && needed <= (rows[other].length - 1) / kPageTokens;
            // The last page first: mostly that says it all.
            if (!enough || rows[first].pages[needed - 1] != rows[other].pages[needed - 1]) continue;
            const uint32_t pages = std::min(shared, common_pages(rows[first], rows[other]));
            if (pages < needed) continue;
            shared = pages;
            longest = tokens;
            taken[other] = true;
            group.row[group.rows++] = static_cast<uint16_t>(other);
        }
        group.shared = shared * kPageTokens;
        if (group.rows > 1) groups.push_back(group);
    }
    return groups;
}

}  // namespace dca::cuda
