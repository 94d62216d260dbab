// The sum over ranks behind attention and feed-forward: every card reads the others' memory, or is written to by them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/linear/matvec.h"

namespace dca::cuda {

constexpr uint32_t kMostCards = 16;
// Blocks of threads of every sum: few enough that whatever else runs on the card finds room while they wait for others.
constexpr uint32_t kSumBlocks = 32;
constexpr uint32_t kPushedValues = 1u << 16;  // of a sum that is pushed; larger ones are pulled

/// What a rank adds to the residual stream of layer after layer lies in two buffers in turn, so that one is written while others
/// may still read the other.
enum class Partial : uint32_t { Attention = 0, FeedForward = 1 };
constexpr uint32_t kPartials = 2;

/// Device memory of a rank; all but `tickets` is read or written by the others too.
struct RankMemory {
    std::byte* partial[kPartials];  // (block, n_embd), in f32 or 16 bits
    uint4* pushed;                  // (2, ranks, kPushedValues / 2): two values, each with the number of its sum
    uint32_t* arrived;              // (ranks, kSumBlocks): the number of the sum that each of the others has come to
    uint64_t* tickets;              // blocks of sums so far: each takes one when it starts, which says its sum's number

    /// Bytes of pushed, arrived and tickets, which lie one after another and are zero at first.
    static size_t signal_bytes(uint32_t ranks);
    /// Places them there.
    void place_signals(void* memory, uint32_t ranks);
};

/// All ranks of an engine as one of them sees them.
struct RankTable {
    uint32_t rank = 0, ranks = 1;
    bool one_card = false;               // ranks share a card: a kernel that waits must not hold it
    const uint32_t* given_up = nullptr;  // memory of the host: not 0 once a rank has failed
    RankMemory of[kMostCards] = {};
};

/// x[i] += the sum of the ranks' partials, for n values from `first` on; both multiples of 8. All ranks launch the same sums
/// in the same order; the order of additions is that of the ranks, so that all get the same bits.
struct SumArgs {
    float* x;  // the first value's
    Partial partial;
    VectorType type;  // of the partials' values; of F16 what is infinite counts as the largest value there is
    uint64_t first, n;
};

/// Launches on `stream` and returns without waiting. `overlapped`: may start before the kernel before it has ended.
cudaError_t sum_ranks(const Card& card, const RankTable& table, const SumArgs& args, bool overlapped, cudaStream_t stream);

}  // namespace dca::cuda
