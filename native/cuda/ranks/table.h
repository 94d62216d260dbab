// What ranks on cards know of each other's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/positions/host_device.h"

namespace dca::cuda {

constexpr uint32_t kMostCards = 16;
// Blocks of threads of a sum (sum.h): few enough that whatever else runs on the card finds room while they wait for others.
constexpr uint32_t kSumBlocks = 32;
constexpr uint32_t kPushedValues = 1u << 16;  // of a sum that is pushed; larger ones are pulled
constexpr uint32_t kPushedRows = 128;         // of a sum that comes with the next norm (sum_norm.h) and is pushed; longer ones are mailed

/// What a rank adds to the residual stream of layer after layer lies in two buffers in turn, so that one is written while others
/// may still read the other.
enum class Partial : uint32_t { Attention = 0, FeedForward = 1 };
constexpr uint32_t kPartials = 2;

// Two 16-bit values that nobody sends: those that are not numbers go with other bits.
constexpr uint32_t kNothing = 0xffffffffu, kNoNumbers = 0x7fff7fffu;

constexpr uint32_t kWaitedTooLong = 2;  // RankTable::given_up

/// The sizes of a rank's memory.
struct RankSizes {
    uint32_t ranks, block, width;  // width: n_embd
};

/// Device memory of a rank; all but the tickets is read or written by the others too.
struct RankMemory {
    std::byte* partial[kPartials];  // (block, width), in f32 or 16 bits
    std::byte* inbox[kPartials];    // (ranks - 1, block, width) 16-bit partials of the others
    uint64_t inbox_bytes;           // of one of them

    uint4* pushed;          // (2, ranks, kPushedValues / 2): two values, each with the number of its sum
    uint2* pushed_rows;     // (2, ranks, kPushedRows, width / 4): four 16-bit values, kNothing where none have come
    uint32_t* arrived;      // (ranks, kSumBlocks): the number of the sum that each of the others has come to
    uint32_t* reached;      // (ranks): the number of the last sum outside of a recording that each of the others has come to
    uint64_t* tickets;      // blocks of sums so far: each takes one when it starts, which says its sum's number
    uint64_t* row_tickets;  // the same of sums of rows

    /// Places inboxes, and lets the rest lie one after another from `pushed` on, which clear() begins with.
    static size_t inbox_bytes_of(const RankSizes& sizes);  // of both
    static size_t signal_bytes(const RankSizes& sizes);
    void place(std::byte* inboxes, std::byte* signals, const RankSizes& sizes);
    /// What waits for others finds nothing of theirs; once `stream` has come here.
    cudaError_t clear(const RankSizes& sizes, cudaStream_t stream) const;
};

/// All ranks of an engine as one of them sees them.
struct RankTable {
    uint32_t rank = 0, ranks = 1;
    bool one_card = false;         // ranks share a card: a kernel that waits must not hold it
    uint32_t* given_up = nullptr;  // memory of the host: not 0 once a rank has failed, or kept another waiting too long
    RankMemory of[kMostCards] = {};
};

/// Which of a rank's letters another one's is.
constexpr DCA_HOST_DEVICE uint32_t inbox_place(uint32_t from, uint32_t to) noexcept { return from < to ? from : from - 1; }

}  // namespace dca::cuda
