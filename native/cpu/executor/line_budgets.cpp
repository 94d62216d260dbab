#include "cpu/executor/line_budgets.h"

#include <algorithm>
#include <numeric>

namespace dca::cpu {

namespace {

/// The `budget` first of [0, n) in the order of (forced ones, weight, number), ascending by number, in order[0 .. result).
size_t heaviest(std::span<const float> weights, uint32_t forced, uint32_t budget, std::vector<uint32_t>& order) {
    order.resize(weights.size());
    std::iota(order.begin(), order.end(), 0u);
    const size_t taken = std::min<size_t>(budget, order.size());
    const auto weight = [&](uint32_t i) { return weights[i] > 0.0f ? weights[i] : 0.0f; };  // what is no number weighs nothing
    const auto before = [&](uint32_t a, uint32_t b) {
        if ((a < forced) != (b < forced)) return a < forced;
        if (a < forced || weight(a) == weight(b)) return a < b;
        return weight(a) > weight(b);
    };
    if (taken < order.size()) std::nth_element(order.begin(), order.begin() + static_cast<ptrdiff_t>(taken), order.end(), before);
    std::sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(taken));
    return taken;
}

}  // namespace

void choose_columns(std::span<const float> weights, uint32_t first_key, uint32_t budget, std::vector<uint32_t>& order,
                    std::vector<uint32_t>& columns) {
    const uint32_t forced = kSinkColumns - std::min(kSinkColumns, first_key);
    const size_t taken = heaviest(weights, forced, budget, order);
    columns.clear();
    for (size_t i = 0; i < taken; ++i) columns.push_back(first_key + order[i]);
}

void choose_diagonals(std::span<const float> weights, uint32_t budget, std::vector<uint32_t>& order, std::vector<KeyRange>& diagonals) {
    const size_t taken = heaviest(weights, kLocalDiagonals, budget, order);
    diagonals.clear();
    for (size_t i = 0; i < taken; ++i) {
        if (!diagonals.empty() && diagonals.back().end == order[i]) {
            ++diagonals.back().end;
        } else {
            diagonals.push_back({order[i], order[i] + 1});
        }
    }
}

void keys_of_block(const ChosenLines& chosen, uint32_t begin, uint32_t end, uint32_t first_key, BlockKeys& keys) {
    keys.runs.clear();
    keys.singles.clear();
    // Distances [a, b) of queries [begin, end) reach keys [begin - (b - 1), end - a).
    for (size_t i = chosen.diagonals.size(); i-- > 0;) {
        const KeyRange& distances = chosen.diagonals[i];
        if (end <= first_key + distances.begin) continue;
        const uint32_t last = distances.end - 1;
        const KeyRange run{begin > first_key + last ? begin - last : first_key, end - distances.begin};
        if (!keys.runs.empty() && run.begin <= keys.runs.back().end) {
            keys.runs.back().end = run.end;
        } else {
            keys.runs.push_back(run);
        }
    }
    size_t next = 0;
    for (const uint32_t column : chosen.columns) {
        if (column >= end) break;
        while (next < keys.runs.size() && keys.runs[next].end <= column) ++next;
        if (next < keys.runs.size() && keys.runs[next].begin <= column) continue;
        keys.singles.push_back(column);
    }
}

}  // namespace dca::cpu
