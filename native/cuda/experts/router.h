// A mixture's router: from the residual stream to every token's experts and their weights.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/launch.h"

namespace dca::cuda {

constexpr uint32_t kMostExperts = 4096;  // their logits lie in shared memory

/// logits[i] = router row i · x / rms(x), for one token; cols is a multiple of 4.
cudaError_t router_logits_row(const Card& card, const float* x, const float* router, float epsilon, uint32_t cols, uint32_t n_logits,
                              float* logits, cudaStream_t stream);

struct ChooseArgs {
    const float* logits;  // (rows, stride); with shared_gated, number n_experts is the shared expert's
    uint32_t rows, stride;
    const float* factors;  // (rows): logits are multiplied by them first; null: none
    const float* bias;     // (n_experts), added to the logits; null: none
    uint32_t n_experts, n_used;
    bool normalised;  // the weights of a token's experts are made to sum to 1
    bool shared_gated;
    float scale;        // of the weights, at last
    uint32_t* experts;  // (rows, n_used), by falling logit; of equal ones the first
    float* weights;     // (rows, n_used + 1), the last one the shared expert's: 1 without a gate
};
cudaError_t choose_experts(const Card& card, const ChooseArgs& args, cudaStream_t stream);

struct SortArgs {
    const uint32_t* experts;  // (n_pairs), each below n_experts
    uint32_t n_pairs, n_experts;
    uint32_t* counts;  // (n_experts) pairs of each; host memory that the device can reach
    uint32_t* pairs;   // (n_pairs) by place: sorted by expert, of one expert as they were
    uint32_t* places;  // (n_pairs) by pair: where it went
};
cudaError_t sort_pairs(const SortArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
