// A model's tensors under their roles, checked against its hparams. Matrices stay in the mapped
// file (W is rows × cols and y = W x); norms and biases are dequantized to f32.
#pragma once

#include <vector>

#include "core/gguf/gguf.h"
#include "core/hparams.h"

namespace dca {

struct LayerWeights {
    std::vector<float> attention_norm;          // (n_embd); empty where norms come after the blocks
    Tensor q, k, v;                             // (n_heads·head_dim | n_kv_heads·head_dim, n_embd)
    std::vector<float> q_bias, k_bias, v_bias;  // empty where the model has none
    std::vector<float> q_norm, k_norm;          // (head_dim) for every head or (n_heads·head_dim | n_kv_heads·head_dim); or empty
    std::vector<float> sinks;                   // (n_heads) logits that take their share of the softmax; or empty
    Tensor output;                              // (n_embd, n_heads·head_dim)
    std::vector<float> output_bias;             // empty where the model has none
    std::vector<float> attention_post_norm;     // (n_embd); empty where none comes after the block

    std::vector<float> ffn_norm;                       // (n_embd); empty where norms come after, or one serves both blocks
    Tensor gate, up;                                   // (n_ff, n_embd)
    Tensor down;                                       // (n_embd, n_ff)
    std::vector<float> gate_bias, up_bias, down_bias;  // empty where the model has none

    std::vector<float> ffn_post_norm;                       // (n_embd); empty where none comes after the block
    std::vector<float> attention_norm_bias, ffn_norm_bias;  // (n_embd), empty where the model has none

    Tensor router;                                        // (n_experts, n_embd); set in mixtures only
    uint32_t first_expert = 0;                            // of those whose matrices are here: all, of a rank maybe some
    Tensor expert_gate, expert_up;                        // n_experts × (n_ff_expert, n_embd)
    Tensor expert_down;                                   // n_experts × (n_embd, n_ff_expert)
    std::vector<float> router_bias;                       // (n_experts) or empty
    std::vector<float> expert_gate_bias, expert_up_bias;  // (n_experts, n_ff_expert) or empty
    std::vector<float> expert_down_bias;                  // (n_experts, n_embd) or empty
    Tensor shared_gate, shared_up;                        // (n_ff_shared, n_embd)
    Tensor shared_down;                                   // (n_embd, n_ff_shared)
    std::vector<float> shared_router;                     // (n_embd): sigmoid gate of the shared expert; empty: always on
};

struct Weights {
    Tensor token_embedding;  // (n_vocab, n_embd)
    std::vector<LayerWeights> layers;
    std::vector<float> output_norm;        // (n_embd)
    std::vector<float> output_norm_bias;   // (n_embd) or empty
    Tensor output;                         // (n_vocab, n_embd); the embedding itself where tied
    std::vector<float> rope_factors;       // (rotary_dim / 2) divisors of the frequencies; empty: 1
    std::vector<float> rope_factors_long;  // the same, used beyond the original context (LongRoPE)
};

/// Throws a format error for a missing tensor or one of another shape.
Weights read_weights(const GgufFile& file, const Hparams& hparams);

}  // namespace dca
