// What one step runs: new tokens of one or many sequences, each at the end of its own keys and values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace dca {

/// One sequence's part of a step. Its tokens stand at indices start, start + 1, ...; the key of index j lies in
/// pages[j / kPageTokens] at j % kPageTokens, the new ones included.
struct Slice {
    std::span<const uint32_t> pages;
    uint32_t start;
    std::span<const int32_t> tokens;
    uint32_t wanted;          // how many of its last rows are read (logits, likelihoods)
    uint32_t sparse_end = 0;  // rows at indices below may be attended sparsely (core/positions/sparse_prefill.h)

    uint32_t rows() const noexcept { return static_cast<uint32_t>(tokens.size()); }
    uint32_t end() const noexcept { return start + rows(); }
};

/// The rows of a step's activations are its slices' tokens one after another, every token a row.
struct Batch {
    std::span<const Slice> slices;

    uint32_t rows() const noexcept {
        uint32_t rows = 0;
        for (const Slice& slice : slices) rows += slice.rows();
        return rows;
    }
    uint32_t wanted() const noexcept {
        uint32_t wanted = 0;
        for (const Slice& slice : slices) wanted += slice.wanted;
        return wanted;
    }
    /// Whether every sequence goes on by one token, or by `most` at most (guesses at what follows it), and the logits of all are
    /// wanted.
    bool decode(uint32_t most = 1) const noexcept {
        return std::ranges::all_of(slices, [&](const Slice& slice) {
            return slice.rows() <= most && slice.wanted == slice.rows() && (slice.rows() == 1 || slice.sparse_end <= slice.start);
        });
    }
};

}  // namespace dca
