// What sparse prefill has chosen: for one block of queries, and kept for whoever asks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "core/positions/key_ranges.h"

namespace dca::cpu {

/// The keys of one page that lie in one range. A range holds whole chunks but for its last, so up to two sides of a chunk
/// border, each with a mean of its own.
struct PagePiece {
    uint32_t page;  // of the sequence
    Range range;
    KeyRange keys;
    uint32_t first_row, rows;  // its means among those scored; none: it is read in any case
};

/// The pages that a block of queries sees, and which of them it reads. A worker's scratch.
struct PageChoice {
    std::vector<PagePiece> pieces;  // range by range from the farthest on, keys ascending
    std::vector<uint8_t> kept;      // (pieces, group)
    std::vector<float> means;       // of one range, as keys lie in a cache
    std::vector<float> scores;      // (group, rows, kPanelLanes)
    std::vector<float> weights;     // (rows)
    uint32_t rows = 0;              // means scored, of all ranges
};

/// Pairs of a query and a key before it.
struct PairCount {
    uint64_t read = 0, seen = 0;
};

/// The choices of a whole run, for who wants to compare them (dca_session_selection).
class SelectionRecord {
public:
    void add(std::vector<uint32_t> words) {
        const std::lock_guard lock(mutex_);
        blocks_.push_back(std::move(words));
    }
    /// By layer, head and query, whichever thread came first.
    std::vector<uint32_t> words() const {
        std::vector<std::vector<uint32_t>> sorted = blocks_;
        std::ranges::sort(sorted);
        std::vector<uint32_t> all;
        for (const std::vector<uint32_t>& block : sorted) all.insert(all.end(), block.begin(), block.end());
        return all;
    }

private:
    std::mutex mutex_;
    std::vector<std::vector<uint32_t>> blocks_;
};

}  // namespace dca::cpu
