// Which keys a head's stated budget of columns and diagonals lets it read (docs/sparse.md, "Stated budgets").
//
// A column is a key, read by every query after it; a diagonal is a distance d, at which query i reads key i - d. The
// queries of a block read the diagonals of each other too, so that what a block reads is whole runs of keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/positions/key_ranges.h"
#include "core/positions/sparse_prefill.h"

namespace dca::cpu {

/// What a head has chosen for the queries of one unit.
struct ChosenLines {
    std::vector<uint32_t> columns;    // keys, ascending
    std::vector<KeyRange> diagonals;  // runs of distances, ascending, not adjacent
};

/// What of it a block of queries reads before its own end.
struct BlockKeys {
    std::vector<KeyRange> runs;     // ascending, disjoint
    std::vector<uint32_t> singles;  // keys outside of them, ascending
};

/// The heaviest `budget` of the columns whose weights are given, the first of them for key `first_key`; the first
/// kSinkColumns keys of the sequence count as heavier than all. Of equals the earlier. `order` is scratch.
void choose_columns(std::span<const float> weights, uint32_t first_key, uint32_t budget, std::vector<uint32_t>& order,
                    std::vector<uint32_t>& columns);

/// The heaviest `budget` of the diagonals, weights[d] being that of distance d; the first kLocalDiagonals count as heavier
/// than all. Of equals the nearer.
void choose_diagonals(std::span<const float> weights, uint32_t budget, std::vector<uint32_t>& order, std::vector<KeyRange>& diagonals);

/// What queries [begin, end) read of the keys from `first_key` on.
void keys_of_block(const ChosenLines& chosen, uint32_t begin, uint32_t end, uint32_t first_key, BlockKeys& keys);

}  // namespace dca::cpu
