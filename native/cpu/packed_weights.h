// A model's matrices repacked at load (packed.h): one copy more in memory, for products that
// run several times as fast. The file's own pages of what was packed are given back.
#pragma once

#include <unordered_map>
#include <vector>

#include "core/backend.h"
#include "cpu/buffer.h"

namespace dca::cpu {

class PackedWeights {
public:
    /// Nothing packed.
    PackedWeights() = default;

    /// Every matrix that products read and whose format has a packed layout, on source.threads
    /// threads. Throws Error(DCA_ERROR_CANCELLED) if the progress callback asks for it.
    explicit PackedWeights(const BackendSource& source);

    /// The row groups of a matrix, group after group; null if it is not packed.
    const std::byte* find(const Tensor& matrix) const noexcept {
        const auto found = groups_.find(matrix.data);
        return found == groups_.end() ? nullptr : found->second;
    }

    uint64_t bytes() const noexcept { return memory_.bytes(); }

private:
    Buffer<std::byte> memory_;
    std::unordered_map<const std::byte*, const std::byte*> groups_;  // by the matrix's place in the file
};

}  // namespace dca::cpu
