// What ranks share that work on one step together, each with its part of every matrix (core/ranks/shard.h). Each has a
// thread of its own and runs the whole step; where one needs the others' results (the sums behind attention and
// feed-forward, a whole row of logits), they meet.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace dca {

/// Of the ranks of one engine. Where one of them fails, the others give up instead of waiting for it.
class Exchange {
public:
    /// Rank r has rows [vocabulary[r], vocabulary[r + 1]) of the output matrix.
    explicit Exchange(std::vector<uint32_t> vocabulary)
        : vocabulary_(std::move(vocabulary)), answers_{std::vector<uint8_t>(ranks()), std::vector<uint8_t>(ranks())}, asked_(ranks()) {}
    virtual ~Exchange() = default;
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    uint32_t ranks() const noexcept { return static_cast<uint32_t>(vocabulary_.size() - 1); }
    uint32_t n_vocab() const noexcept { return vocabulary_.back(); }
    uint32_t first_token(uint32_t rank) const noexcept { return vocabulary_[rank]; }
    /// Of so many rows of logits, a rank chooses the tokens of those from its first one to the next rank's first one.
    uint32_t first_row(uint32_t rank, uint32_t rows) const noexcept {
        return static_cast<uint32_t>((uint64_t{rows} * rank + ranks() - 1) / ranks());
    }

    /// All ranks' executors are made.
    virtual void connect() {}

    /// Returns when every rank has called it. Throws a device error once a rank has failed.
    void meet();

    /// Whether all ranks say yes; all call it. Throws as meet() does.
    bool agree(uint32_t rank, bool yes);

    /// Nothing of these ranks runs any more when this returns.
    virtual void settle() noexcept {}

    /// A rank has failed.
    virtual void abort() noexcept { aborted_.store(true); }

    /// No rank is in a step any more: the next one starts as if the failed one had not been. Throws where the machine does not
    /// recover.
    virtual void reset();

private:
    std::vector<uint32_t> vocabulary_;
    std::atomic<uint32_t> waiting_{0};
    std::atomic<uint64_t> meetings_{0};
    std::atomic<bool> aborted_{false};
    std::array<std::vector<uint8_t>, 2> answers_;  // by rank, in turn: some may still read the last ones
    std::vector<uint32_t> asked_;                  // how often, by rank
};

}  // namespace dca
