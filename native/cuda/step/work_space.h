// The memory of an engine's steps on a card, allocated at once: activations, work space, the rotation table.
#pragma once

#include <cstdint>
#include <vector>

#include "core/backend/backend.h"
#include "cuda/attention/attention.h"
#include "cuda/device/device.h"
#include "cuda/device/resources.h"
#include "cuda/experts/memory.h"
#include "cuda/sparse/memory.h"
#include "cuda/ranks/table.h"
#include "cuda/weights/weights.h"

namespace dca::cuda {

struct WorkSpace {
    static constexpr uint32_t kDequantizedRows = 128;  // a matrix that is dequantized in slices is cut at multiples of this

    /// Throws a memory error, before allocating, that names the tokens that would fit, the cache (kv_cache.h) included;
    /// or an unsupported error for a cache type that the kernels do not read.
    WorkSpace(const Hparams& hparams, const DeviceWeights& weights, const Device& device, const AttentionShape& shape,
              const EngineSpec& spec);

    uint32_t block = 0;        // rows of a step at most
    uint32_t slices = 0;       // likewise
    uint32_t decode_rows = 0;  // likewise, that attend alone
    uint64_t scratch_bytes = 0;

    RotaryTable rotary{};
    RotaryTable window_rotary{};  // of layers with a window

    float* x;                // (block, n_embd) residual stream
    float* branch;           // (block, n_embd) a block's result where it is not added to x as it is; else of no size
    std::byte* normed;       // (block, n_embd)              these in the activations' 16-bit type
    std::byte* qkv;          // (block, q_width + 2 kv_width)
    std::byte* attended;     // (block, q_width)
    std::byte* gate_up;      // (block, 2 n_ff); of a mixture (product_rows, 2 n_ff_expert) and (block, 2 n_ff_shared)
    std::byte* gated;        // half as wide
    float* gate_up_row;      // of one row (2 n_ff); of a mixture (n_experts_used, 2 n_ff_expert) and (2 n_ff_shared)
    float* gated_row;        // half as wide
    ExpertMemory experts{};  // of a mixture
    SparseMemory sparse{};   // where prefill is sparse
    LineMemory lines{};      // where it has stated budgets
    float* logits;           // (vocab_rows, n_vocab)
    uint32_t vocab_rows = 0;
    std::byte* dequantized;  // a quantised matrix, or as many of its rows as fit, in 16 bits
    uint64_t dequantized_bytes = 0;
    std::byte* product_workspace;  // of cuBLASLt and of small_batch(), one after the other
    std::byte* prefill_workspace;
    size_t prefill_bytes = 0;
    std::byte* decode_workspace;

    // Of one rank among several (ranks/exchange.h).
    RankMemory ranks{};
    RankSizes rank_sizes{};
    float* whole_logits = nullptr;  // (a rank's share of vocab_rows, n_vocab of all ranks)

    // Host memory that the card reads and writes.
    int32_t* targets;    // (block)
    float2* scores;      // (block)
    float* host_logits;  // (host_logits_rows, n_vocab)
    uint32_t host_logits_rows = 0;

private:
    struct Plan;

    /// Places everything for a pool of `tokens` tokens of `type`, or only counts (Arena).
    void place(Arena& scratch, const Plan& plan, uint32_t tokens, CacheType type);
    void place_host(Arena& host, const Plan& plan);

    DeviceMemory device_;
    PinnedMemory host_;
};

}  // namespace dca::cuda
