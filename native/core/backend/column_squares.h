// What flows into the matrices of a model: for each of a matrix's columns, the sum of the squares of its inputs. It says
// which weights matter most to a text (an "importance matrix"). Kept only where somebody asked for it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "core/weights.h"

namespace dca {

class ColumnSquares {
public:
    struct Entry {
        Tensor matrix;             // as it was multiplied: an expert's matrix, or rows of a fused one
        uint64_t rows = 0;         // inputs so far
        std::vector<double> sums;  // (cols)
    };

    /// Adds `rows` inputs whose squares, column by column, sum to `sums`.
    void add(const Tensor& matrix, uint64_t rows, const std::vector<double>& sums) {
        Entry& entry = entries_[matrix.data];
        entry.sums.resize(sums.size());
        entry.matrix = matrix;
        entry.rows += rows;
        for (size_t i = 0; i < sums.size(); ++i) entry.sums[i] += sums[i];
    }

    const std::map<const std::byte*, Entry>& entries() const noexcept { return entries_; }

private:
    std::map<const std::byte*, Entry> entries_;  // by the matrix's first byte
};

}  // namespace dca
