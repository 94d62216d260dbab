// A model's matrices copied at load into large pages, the quantised ones repacked (packed.h): one copy
// more in memory, for products that run up to several times as fast. The file's own pages are given back.
#pragma once

#include <unordered_map>
#include <vector>

#include "core/backend/backend.h"
#include "cpu/buffer.h"

namespace dca::cpu {

class PackedWeights {
public:
    /// Nothing copied.
    PackedWeights() = default;

    /// Every matrix that products read: those in floats, and if `quantised` those that have a packed layout,
    /// on source.threads threads. Nothing where the copies would take more than three quarters of the memory
    /// that is available. Throws Error(DCA_ERROR_CANCELLED) if the progress callback asks for it.
    PackedWeights(const BackendSource& source, bool quantised);

    /// The row groups of a matrix, group after group; null if it is not packed.
    const std::byte* find(const Tensor& matrix) const noexcept {
        const auto found = groups_.find(matrix.data);
        return found == groups_.end() ? nullptr : found->second;
    }

    /// Rows of a matrix, `step` bytes from one to the next.
    struct Rows {
        const std::byte* first;
        int64_t step;
        const std::byte* at(int64_t row) const noexcept { return first + row * step; }
    };
    /// Those of a matrix that is not packed: a copy in large pages, or where they lie in the file.
    Rows rows(const Tensor& matrix) const noexcept {
        const auto found = rows_.find(matrix.data);
        return found == rows_.end() ? Rows{matrix.data, matrix.row_step()} : Rows{found->second, matrix.row_bytes()};
    }

    uint64_t bytes() const noexcept { return memory_.bytes(); }

private:
    Buffer<std::byte> memory_;
    std::unordered_map<const std::byte*, const std::byte*> groups_, rows_;  // by the matrix's place in the file
};

}  // namespace dca::cpu
