// Byte-pair merging: of all neighbours that a merge joins, the best merge's leftmost pair becomes one token, until none is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <queue>
#include <vector>

namespace dca {

/// Merges `tokens` in place. `merge(left, right)` gives what joins two tokens, if something does: a type with `result`, the
/// token that they become, which is ordered by `better(a, b)`. A text of n tokens takes n log n steps.
template <class Merge, class Better>
void merge_all(std::vector<int32_t>& tokens, Merge merge, Better better) {
    if (tokens.size() < 2) return;
    using Found = typename decltype(merge(0, 0))::value_type;
    struct Waiting {
        Found merge;
        uint32_t at;
    };
    const auto later = [&](const Waiting& a, const Waiting& b) {
        if (better(b.merge, a.merge)) return true;
        return !better(a.merge, b.merge) && b.at < a.at;
    };
    constexpr uint32_t none = UINT32_MAX;
    const auto count = static_cast<uint32_t>(tokens.size());
    std::vector<uint32_t> previous(count), next(count);
    std::vector<bool> gone(count, false);
    std::vector<Waiting> first;
    for (uint32_t i = 0; i < count; ++i) {
        previous[i] = i == 0 ? none : i - 1;
        next[i] = i + 1 == count ? none : i + 1;
        if (next[i] == none) break;
        if (const auto found = merge(tokens[i], tokens[i + 1])) first.push_back({*found, i});
    }
    std::priority_queue<Waiting, std::vector<Waiting>, decltype(later)> queue(later, std::move(first));
    while (!queue.empty()) {
        const auto [best, at] = queue.top();
        queue.pop();
        if (gone[at] || next[at] == none) continue;
        const uint32_t right = next[at];
        // The pair may have changed since; what becomes the same token is merged all the same, as in the tokenizers package.
        const auto still = merge(tokens[at], tokens[right]);
        if (!still || still->result != best.result) continue;
        tokens[at] = best.result;
        gone[right] = true;
        next[at] = next[right];
        if (next[at] != none) previous[next[at]] = at;
        if (const uint32_t left = previous[at]; left != none) {
            if (const auto found = merge(tokens[left], tokens[at])) queue.push({*found, left});
        }
        if (next[at] != none) {
            if (const auto found = merge(tokens[at], tokens[next[at]])) queue.push({*found, at});
        }
    }
    size_t kept = 0;
    for (uint32_t i = 0; i < count; ++i) {
        if (!gone[i]) tokens[kept++] = tokens[i];
    }
    tokens.resize(kept);
}

}  // namespace dca
