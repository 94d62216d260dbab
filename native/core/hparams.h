// What a model is, in numbers: read from a GGUF's metadata, checked against each other.
#pragma once

#include <cstdint>
#include <string>

#include "core/gguf/gguf.h"
#include "dca.h"

namespace dca {

/// Which two values of a head RoPE turns together: (2j, 2j + 1) or (j, j + rotary_dim / 2).
enum class RopeLayout { Interleaved, Halves };

enum class RopeScaling { None, Linear, Yarn, LongRope };

struct Hparams {
    std::string architecture;
    uint32_t n_vocab = 0;
    uint32_t n_layers = 0;
    uint32_t n_embd = 0;
    uint32_t n_heads = 0;
    uint32_t n_kv_heads = 0;
    uint32_t head_dim = 0;
    uint32_t n_ff = 0;  // 0 in mixtures
    uint32_t context_length = 0;
    float rms_epsilon = 1e-5f;

    RopeLayout rope_layout = RopeLayout::Interleaved;
    uint32_t rotary_dim = 0;
    float rope_base = 10000.0f;
    RopeScaling rope_scaling = RopeScaling::None;
    float rope_factor = 1.0f;            // linear and YaRN: trained positions are stretched by this
    uint32_t rope_original_context = 0;  // YaRN and LongRoPE: context before scaling, tokens
    float rope_attention_factor = 1.0f;  // multiplies cos and sin
    float yarn_beta_fast = 32.0f;
    float yarn_beta_slow = 1.0f;

    uint32_t n_experts = 0;  // 0: dense
    uint32_t n_experts_used = 0;
    uint32_t n_ff_expert = 0;
    uint32_t n_ff_shared = 0;          // 0: no shared expert
    bool expert_weights_norm = false;  // chosen experts' weights are made to sum to 1
    float expert_weights_scale = 1.0f;

    dca_scheme scheme{};  // chunk_size 0: plain attention

    uint32_t q_width() const noexcept { return n_heads * head_dim; }
    uint32_t kv_width() const noexcept { return n_kv_heads * head_dim; }
};

/// Throws a format error (a key that is missing, contradicts another or is out of range)
/// or an unsupported error (another architecture or RoPE kind).
Hparams read_hparams(const GgufFile& file);

}  // namespace dca
