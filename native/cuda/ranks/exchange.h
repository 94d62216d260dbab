// The exchange of ranks that are cards, or of several on one card (tests).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/ranks/exchange.h"
#include "cuda/device/card.h"
#include "cuda/device/resources.h"
#include "cuda/ranks/nccl.h"
#include "cuda/ranks/sum.h"
#include "cuda/ranks/sum_norm.h"

namespace dca::cuda {

/// How ranks add up.
enum class SumWay {
    // They reach each other's memory (let_peers_reach). In a recording the kernel that adds waits for the others' parts. Elsewhere
    // the ranks' threads meet before, so that a kernel waits only for what has been launched: whatever a thread does later may wait
    // for the cards (loading a kernel does, now and then, for all of the process's).
    Kernels,
    Streams,  // of one card: likewise, but streams wait in place of kernels, and nothing is recorded
    Nccl,
};

class CudaExchange final : public Exchange {
public:
    /// The cards, by rank.
    CudaExchange(std::vector<uint32_t> vocabulary, std::vector<int> cards, SumWay way);
    ~CudaExchange() override;

    /// A rank's part, before connect(): its memory, the streams that its sums run on, the whole rows of logits that all write
    /// to, and what says that its own have been sent.
    struct Part {
        RankMemory memory{};
        RankSizes sizes{};
        std::vector<cudaStream_t> streams;
        float* whole_logits = nullptr;  // (rows, n_vocab)
        cudaEvent_t logits_sent = nullptr;
    };
    void join(uint32_t rank, Part part);
    void connect() override;

    /// Whether steps are recorded.
    bool records() const noexcept { return way_ != SumWay::Streams; }

    /// Throws a device error where a card gave up waiting for another in the step that has ended.
    void check_patience() const;

    void settle() noexcept override;
    void abort() noexcept override;
    void reset() override;

    /// x += the sum over the ranks. `recorded`: the stream records what is launched.
    void sum(const Card& card, uint32_t rank, SumArgs args, bool recorded, cudaStream_t stream);

    /// Whether so many rows of 16-bit partials are mailed; fewer the kernel that adds them sends or reads. All of a recording are so
    /// few.
    bool mails(uint32_t rows) const noexcept { return way_ == SumWay::Nccl || rows > kPushedRows; }
    /// What lies ready on `stream` goes to the others: n partial values of type dtype, from `first` on.
    void mail(uint32_t rank, Partial partial, Dtype dtype, uint64_t first, uint64_t n, cudaStream_t stream);
    /// x += the sum over the ranks, and its norm; `recorded` as above. `stream` waits for what this rank's were mailed on.
    void sum_and_norm(const Card& card, uint32_t rank, SumNormArgs args, bool recorded, cudaStream_t stream);

    /// A rank's columns of `rows` rows of logits, (rows, columns), go to the ranks that choose the rows' tokens. What `stream`
    /// runs next finds whole rows, its own ones of those (first_row), at what is returned. All ranks call it, in the same order,
    /// and before they do so again have read what is there and met.
    float* gather_logits(uint32_t rank, const float* logits, uint32_t rows, cudaStream_t stream);

private:
    /// What runs next on a rank's `stream` finds done what the others have launched before their call of this.
    void await_others(uint32_t rank, cudaStream_t stream);

    std::vector<int> cards_;
    SumWay way_;
    std::vector<Part> parts_;  // by rank, as the rest
    std::vector<RankTable> tables_;
    std::vector<uint32_t> waits_;              // so many sums outside of recordings, by rank
    std::vector<std::array<Event, 2>> come_;   // to one of these, in turn: some may not have asked for the last one yet
    std::vector<Communicator> communicators_;  // where NCCL sums
    PinnedMemory given_up_;                    // a word that waiting kernels look at
};

/// Lets each of the cards read and write the others' memory. False: some cannot.
bool let_peers_reach(const std::vector<int>& cards);

}  // namespace dca::cuda
