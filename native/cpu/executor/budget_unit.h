// Stated budgets on the CPU: what chooses together, and a worker's scratch for it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/executor/line_budgets.h"

namespace dca::cpu {

/// A slice's rows that are still kept: rows [first_row, first_row + rows) of the step, at indices start, start + 1, ...
struct SliceRows {
    std::span<const uint32_t> pages;
    uint32_t start, first_row, rows;
    uint32_t sparse_end;  // queries below may be attended sparsely
    uint32_t fresh_page;  // the first page that the step writes to, where such are read more finely; else there is none
};

/// Queries [first, end) of a slice, all of one chunk, which read what the last of them choose.
struct BudgetUnit {
    const SliceRows* slice;
    uint32_t chunk, first, end;
    uint32_t choosing;  // how many of the last queries choose
    // The choosing queries' rotations, for each range in panels (n_frequencies, kPanelLanes); their scores' scale, a lane each.
    std::vector<float> cos, sin, factor;
    std::vector<ChosenLines> heads;  // (n_heads), of the layer that attends
};

/// Sized before a step, since bodies of the pool must not throw.
struct LineScratch {
    Buffer<float> raw, q;            // (head_dim, kPanelLanes), and a panel for every kPanelLanes choosing queries
    Buffer<float> maximum, sum;      // (choosing queries)
    Buffer<float> keys, values;      // of a tile, in f32
    Buffer<float> scores;            // (kKeyTile, kPanelLanes)
    std::vector<float> columns;      // (keys) weights
    std::vector<float> diagonals;    // (choosing queries + keys + kPanelLanes) weights, by distance from -(choosing queries) on
    std::vector<uint32_t> order;     // (keys)
    std::vector<uint32_t> gathered;  // (kKeyTile) places in the cache
    std::vector<uint8_t> only;       // (group) which head attends
    std::vector<BlockKeys> read;     // (group) of a block
};

}  // namespace dca::cpu
