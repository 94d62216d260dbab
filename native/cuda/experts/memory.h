// Work space of a mixture of experts, a part of work_space.h.
#pragma once

#include <cstdint>

#include "core/hparams.h"
#include "cuda/device/resources.h"

namespace dca::cuda {

struct ExpertMemory {
    /// Rows that the products of experts may run over in a step of `block` tokens: those of one expert
    /// that all of them go to, with padding.
    static uint32_t product_rows(uint32_t block);

    float* logits;        // (block, router_rows)
    float* factors;       // (block) 1 / rms(x), which the router's logits still lack
    uint32_t* chosen;     // (block, n_experts_used) experts
    float* weights;       // (block, n_experts_used + 1), the shared expert's last
    uint32_t* pairs;      // (block · n_experts_used) sorted by expert (order.h)
    uint32_t* places;     // (block, n_experts_used) where the sort put them
    std::byte* gathered;  // (product_rows, n_embd) in the activations' type
    float* results;       // (product_rows, n_embd); of one token (n_experts_used + 1, n_embd)

    uint32_t* counts;  // (n_experts) tokens of each; host memory that the card writes

    void place(Arena& scratch, const Hparams& h, uint32_t block);
    void place_host(Arena& host, const Hparams& h);
};

}  // namespace dca::cuda
