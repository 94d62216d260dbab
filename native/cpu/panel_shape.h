// How the rows of a step, or of a part of it, lie in panels (kernels.h).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/kernels/kernels.h"

namespace dca::cpu {

// Fewer rows are vectors, each of which gets the bits that it gets alone, whatever stands beside it: a step of a token and
// guesses at the next ones (dca_runtime/generation/speculation.py) finds what steps of one token would. Products still read
// weights once for all of them: packed ones and floats multiply up to eight rows at a time as vectors too, others read a few
// rows of weights again from the second-level cache, which costs less than a panel up to here.
constexpr uint32_t kFewestForPanels = 9;

/// Row r is lane r % lanes of panel r / lanes; the last panel may have lanes without a row.
/// Nothing here says whose rows they are: several sequences may share the panels of a product.
struct PanelShape {
    uint32_t rows = 0;
    int lanes = 1;

    PanelShape() = default;
    PanelShape(uint32_t rows, int lanes) : rows(rows), lanes(lanes) {}

    int panels() const noexcept { return static_cast<int>((rows + lanes - 1) / lanes); }
    int panel(size_t row) const noexcept { return static_cast<int>(row / lanes); }
    int lane(size_t row) const noexcept { return static_cast<int>(row % lanes); }

    /// Rows of panel p.
    int rows_of(int p) const noexcept { return std::min(lanes, static_cast<int>(rows) - p * lanes); }

    /// Panels [first, first + count), fewer at the end.
    PanelShape part(int first, int count) const noexcept {
        return {std::min(rows - static_cast<uint32_t>(first * lanes), static_cast<uint32_t>(count * lanes)), lanes};
    }
};

}  // namespace dca::cpu
