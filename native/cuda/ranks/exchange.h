// The exchange of ranks that are cards, or of several on one card (tests).
#pragma once

#include <cstdint>
#include <vector>

#include "core/ranks/exchange.h"
#include "cuda/device/card.h"
#include "cuda/device/resources.h"
#include "cuda/ranks/nccl.h"
#include "cuda/ranks/sum.h"

namespace dca::cuda {

class CudaExchange final : public Exchange {
public:
    /// The cards, by rank; `peers`: they reach each other's memory (let_peers_reach). Otherwise NCCL sums.
    CudaExchange(std::vector<uint32_t> vocabulary, std::vector<int> cards, bool peers);
    ~CudaExchange() override;

    /// A rank's part, before connect(): its memory, the streams that its sums run on, and of rank 0 the whole rows of logits
    /// that the others write to.
    struct Part {
        RankMemory memory{};
        std::vector<cudaStream_t> streams;
        float* whole_logits = nullptr;  // (rows, n_vocab)
    };
    void join(uint32_t rank, Part part);
    void connect() override;

    void abort() noexcept override;
    void reset() override;

    /// x += the sum over the ranks, as SumArgs has it.
    void sum(const Card& card, uint32_t rank, const SumArgs& args, bool overlapped, cudaStream_t stream);

    float* whole_logits() const noexcept { return parts_.front().whole_logits; }

private:
    std::vector<int> cards_;
    bool peers_;
    std::vector<Part> parts_;  // by rank, as the rest
    std::vector<RankTable> tables_;
    std::vector<Communicator> communicators_;  // where NCCL sums
    PinnedMemory given_up_;                    // a word that waiting kernels look at
};

/// Lets each of the cards read and write the others' memory. False: some cannot.
bool let_peers_reach(const std::vector<int>& cards);

}  // namespace dca::cuda
