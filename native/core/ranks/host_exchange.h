// The exchange of ranks whose activations are in host memory.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "core/ranks/exchange.h"

namespace dca {

class HostExchange final : public Exchange {
public:
    explicit HostExchange(std::vector<uint32_t> vocabulary) : Exchange(std::move(vocabulary)), values_(ranks()) {}

    /// `values` of every rank, of equal length, become their sum: the same bits for all.
    void sum(uint32_t rank, std::span<float> values) {
        values_[rank] = values;
        meet();
        // Each rank adds up a piece for all of them.
        const size_t n = values.size(), begin = n * rank / ranks(), end = n * (rank + 1) / ranks();
        for (size_t i = begin; i < end; ++i) {
            float sum = values_[0][i];
            for (uint32_t other = 1; other < ranks(); ++other) sum += values_[other][i];
            for (const std::span<float> each : values_) each[i] = sum;
        }
        meet();
    }

    /// Memory of `size` floats that all ranks write to; each calls it.
    float* shared(uint32_t rank, size_t size) {
        if (rank == 0 && shared_.size() < size) shared_.resize(size);
        meet();
        return shared_.data();
    }

private:
    std::vector<std::span<float>> values_;  // by rank
    std::vector<float> shared_;
};

}  // namespace dca
