// What a model is, in numbers: read from a GGUF's metadata, checked against each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/gguf/gguf.h"
#include "core/positions/sparse_prefill.h"
#include "dca.h"

namespace dca {

/// Which two values of a head RoPE turns together: (2j, 2j + 1) or (j, j + rotary_dim / 2).
enum class RopeLayout { Interleaved, Halves };

enum class RopeScaling { None, Linear, Yarn, LongRope };

enum class NormKind { Rms, Layer };  // Layer: less the mean

/// What gates a feed-forward's up: silu(g), gelu(g) by its tanh formula, or ClampedSwiglu's g σ(1.702 g) with g at most 7,
/// where up becomes up + 1 with up between -7 and 7.
enum class Activation { Silu, Gelu, ClampedSwiglu };

/// Where the norms of a layer's two blocks (attention, feed-forward) stand. Parallel: one norm before both, which read the
/// same residual stream; their results are added to it together.
enum class Norms { Before, After, BeforeAndAfter, Parallel };

/// What may differ from layer to layer.
struct LayerKind {
    bool windowed = false;  // sees the last Hparams::window tokens only
    bool rotated = true;    // has RoPE
};

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
    std::vector<LayerKind> layers;  // (n_layers)

    NormKind norm = NormKind::Rms;
    Norms norms = Norms::Before;
    float rms_epsilon = 1e-5f;         // of the norms, whatever their kind
    bool whole_width_qk_norm = false;  // norms of q and k are over all heads together, not a head at a time
    Activation activation = Activation::Silu;
    float embedding_scale = 1.0f;
    float residual_scale = 1.0f;  // of what a block adds
    float logit_scale = 1.0f;
    float logit_cap = 0.0f;        // logits become cap · tanh(logits / cap); 0: they stay
    float attention_scale = 1.0f;  // of q · k
    float attention_cap = 0.0f;    // of the scaled q · k, as logit_cap

    RopeLayout rope_layout = RopeLayout::Interleaved;
    uint32_t rotary_dim = 0;
    float rope_base = 10000.0f;
    RopeScaling rope_scaling = RopeScaling::None;
    float rope_factor = 1.0f;            // linear and YaRN: trained positions are stretched by this
    uint32_t rope_original_context = 0;  // YaRN and LongRoPE: context before scaling, tokens
    float rope_attention_factor = 1.0f;  // multiplies cos and sin
    float yarn_beta_fast = 32.0f;
    float yarn_beta_slow = 1.0f;
    bool yarn_exact_ramp = false;  // whether the ends of YaRN's ramp are not rounded to whole dimensions

    uint32_t window = 0;              // tokens that a windowed layer sees, its own included; 0: no layer has one
    float window_rope_base = 0.0f;    // of those layers
    bool window_rope_scaled = false;  // whether RoPE scaling is theirs too

    uint32_t n_experts = 0;  // 0: dense
    uint32_t n_experts_used = 0;
    uint32_t n_ff_expert = 0;
    uint32_t n_ff_shared = 0;          // 0: no shared expert
    bool expert_weights_norm = false;  // chosen experts' weights are made to sum to 1
    float expert_weights_scale = 1.0f;

    dca_scheme scheme{};  // chunk_size 0: none
    dca_border border{};  // of STRING; window 0: none
    StatedBudgets budgets;

    uint32_t q_width() const noexcept { return n_heads * head_dim; }
    uint32_t kv_width() const noexcept { return n_kv_heads * head_dim; }
};

/// Throws a format error (a key that is missing, contradicts another or is out of range)
/// or an unsupported error (another architecture or RoPE kind).
Hparams read_hparams(const GgufFile& file);

}  // namespace dca
