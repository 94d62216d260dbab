// Choosing tokens from rows of logits on the card, as core/backend/sampling.h defines it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/card.h"

namespace dca::cuda {

/// A token that penalties or a bias touch.
struct TokenValue {
    int32_t token;
    float value;  // how often it occurs, or its bias
    float own;    // becomes its logit before anything was done to it, if an earlier entry does not have it
};

/// A row's request. Pointers are device memory.
struct ChooseRow {
    float temperature;
    float top_p;
    float log_min_p;  // minus infinity: none
    uint32_t top_k;   // 0: all
    float repeat_penalty, presence_penalty, frequency_penalty;
    uint32_t n_occurring, n_biases;
    uint32_t wants_logprob;
    uint64_t seed, position;
    // Sorted by token; of equal ones the first comes first.
    TokenValue* occurring;
    TokenValue* biases;
    const uint32_t* allowed;  // bits; null: all
};

struct Chosen {
    int32_t token;  // -1: none may be
    float logprob;  // if wanted
};

/// One block of threads a row. Overwrites the logits (n_rows, n_vocab), 16-byte aligned. `rows`, which the kernel that comes before
/// must not write, and `chosen` may be host memory that the device can reach. Launches on `stream`, returns without waiting and
/// allocates nothing.
cudaError_t choose_tokens(const Card& card, float* logits, uint32_t n_vocab, const ChooseRow* rows, uint32_t n_rows, Chosen* chosen,
                          cudaStream_t stream);

}  // namespace dca::cuda
