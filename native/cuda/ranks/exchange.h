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
    Kernels,  // they reach each other's memory (let_peers_reach), and the kernel that adds waits for the others' parts
    Streams,  // likewise, but the ranks' threads meet and their streams wait: nothing on a card waits for what has not begun
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

    /// Whether a step can be recorded: not where threads meet in the midst of it.
    bool records() const noexcept { return way_ != SumWay::Streams; }

    /// Throws a device error where a card gave up waiting for another in the step that has ended.
    void check_patience() const;

    void settle() noexcept override;
    void abort() noexcept override;
    void reset() override;

    /// x += the sum over the ranks, as SumArgs has it.
    void sum(const Card& card, uint32_t rank, const SumArgs& args, cudaStream_t stream);

    /// Whether rows of 16-bit partials are sent by the kernel that adds them, so that nobody mails them.
    bool pushes(uint32_t rows) const noexcept { return way_ == SumWay::Kernels && rows <= kPushedRows; }
    /// What lies ready on `stream` goes to the others: n partial values of type dtype, from `first` on. `last`: of a sum.
    void mail(uint32_t rank, Partial partial, Dtype dtype, uint64_t first, uint64_t n, bool last, cudaStream_t stream);
    /// As SumNormArgs has it. Where NCCL sums, `stream` waits for what partials were mailed on.
    void sum_and_norm(const Card& card, uint32_t rank, const SumNormArgs& args, cudaStream_t stream);

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
    std::vector<uint32_t> letters_;            // how many sums have been mailed
    std::vector<std::array<Event, 2>> come_;   // in turn: some may not have asked for the last one when it is their turn again
    std::vector<uint32_t> waits_;              // of streams for others'
    std::vector<Communicator> communicators_;  // where NCCL sums
    PinnedMemory given_up_;                    // a word that waiting kernels look at
};

/// Lets each of the cards read and write the others' memory. False: some cannot.
bool let_peers_reach(const std::vector<int>& cards);

}  // namespace dca::cuda
