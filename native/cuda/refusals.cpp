#include "cuda/refusals.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace dca::cuda {

namespace {

/// What a layer's tensors need; null if nothing that is lacking.
const char* lacking(const LayerWeights& layer, const Hparams& h) {
    const auto any = [](auto... vectors) { return (!vectors->empty() || ...); };
    if (!layer.sinks.empty()) return "attention sinks";
    if (any(&layer.gate_bias, &layer.up_bias, &layer.down_bias)) return "biases of the feed-forward";
    if (any(&layer.router_bias, &layer.expert_gate_bias)) return "biases of experts or their router";
    if (!layer.q_norm.empty() && layer.q_norm.size() != h.head_dim) return "norms of q and k with weights for every head";
    return nullptr;
}

const char* lacking(const Hparams& h) {
    if (h.norm != NormKind::Rms) return "layer norms";
    if (h.norms == Norms::Parallel) return "attention and feed-forward in parallel";
    if (h.norms != Norms::Before) return "norms after its blocks";
    if (h.whole_width_qk_norm) return "norms of q and k over all heads";
    if (h.activation != Activation::Silu) return "another gate than SiLU";
    if (h.window != 0) return "layers with a window";
    if (std::ranges::any_of(h.layers, [](const LayerKind& layer) { return !layer.rotated; })) return "layers without RoPE";
    if (h.attention_cap != 0.0f || h.logit_cap != 0.0f) return "capped scores or logits";
    if (h.embedding_scale != 1.0f || h.residual_scale != 1.0f || h.logit_scale != 1.0f) return "scaled embeddings, residuals or logits";
    const float usual = 1.0f / std::sqrt(static_cast<float>(h.head_dim));
    if (std::fabs(h.attention_scale - usual) > 1e-6f * usual) return "an attention scale of its own";
    return nullptr;
}

}  // namespace

void check_supported(const Hparams& h, const Weights& weights) {
    const char* missing = lacking(h);
    for (const LayerWeights& layer : weights.layers) missing = missing != nullptr ? missing : lacking(layer, h);
    if (missing == nullptr) return;
    fail(DCA_ERROR_UNSUPPORTED, "this ", h.architecture, " model has ", missing,
         ", which the CUDA backend does not run yet; use device cpu");
}

}  // namespace dca::cuda
