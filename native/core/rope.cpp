#include "core/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace dca {

namespace {

/// The dimension whose wavelength fits `turns` times into the original context (YaRN, arXiv 2309.00071, eq. 17-18).
double yarn_dimension(const Hparams& h, double turns) {
    return h.rotary_dim * std::log(h.rope_original_context / (turns * 2 * std::numbers::pi)) / (2 * std::log(h.rope_base));
}

/// How much of frequency j is interpolated (1) rather than kept (0): a linear ramp between the two dimensions.
double yarn_interpolated_share(const Hparams& h, uint32_t j) {
    const double fast = yarn_dimension(h, h.yarn_beta_fast), slow = yarn_dimension(h, h.yarn_beta_slow);
    const double low = std::max(0.0, h.yarn_exact_ramp ? fast : std::floor(fast));
    const double high = std::min(h.rotary_dim - 1.0, h.yarn_exact_ramp ? slow : std::ceil(slow));
    return std::clamp((j - low) / std::max(0.001, high - low), 0.0, 1.0);
}

}  // namespace

Hparams with_rope(const Hparams& hparams, int32_t rope, float factor, uint32_t positions) {
    if (rope < DCA_ROPE_MODEL || rope > DCA_ROPE_DYNAMIC) {
        fail(DCA_ERROR_ARGUMENT, "rope is ", rope, ", must be one of dca_rope (0 to 4)");
    }
    Hparams h = hparams;
    if (rope == DCA_ROPE_MODEL) return h;
    if (!(factor >= 1.0f) || !std::isfinite(factor)) fail(DCA_ERROR_ARGUMENT, "rope_factor is ", factor, ", must be finite and at least 1");
    if (h.rope_scaling == RopeScaling::LongRope) {
        fail(DCA_ERROR_UNSUPPORTED, "this model's RoPE has factors of its own for long texts (LongRoPE); they cannot be replaced");
    }
    h.rope_attention_factor = 1.0f;
    h.rope_factor = factor;
    h.rope_original_context = h.context_length;
    h.yarn_beta_fast = 32.0f;
    h.yarn_beta_slow = 1.0f;
    h.rope_scaling = rope == DCA_ROPE_LINEAR ? RopeScaling::Linear : rope == DCA_ROPE_YARN ? RopeScaling::Yarn : RopeScaling::None;
    if (rope == DCA_ROPE_NTK || rope == DCA_ROPE_DYNAMIC) {
        const double d = h.rotary_dim;
        if (d <= 2) fail(DCA_ERROR_UNSUPPORTED, "NTK-aware RoPE needs a rotary dimension above 2, this model has ", h.rotary_dim);
        double grown = factor;  // the published code of dynamic NTK: only beyond the trained context, and there by the length
        if (rope == DCA_ROPE_DYNAMIC) grown = std::max(1.0, factor * (static_cast<double>(positions) / h.context_length) - (factor - 1.0));
        h.rope_base = static_cast<float>(h.rope_base * std::pow(grown, d / (d - 2.0)));
    }
    return h;
}

RopeTable plan_rope_table(const Hparams& h, const Weights& weights, const Scheme& scheme, uint32_t context) {
    RopeTable table;
    table.positions = scheme.table_rows(context);
    table.last_position = context > scheme.chunk_size && !scheme.intra_only ? scheme.pretraining_length - 1 : table.positions - 1;
    table.n_frequencies = h.rotary_dim / 2;
    table.layout = h.rope_layout;

    const bool beyond_original = h.rope_scaling == RopeScaling::LongRope && scheme.position_count(context) > h.rope_original_context;
    const std::vector<float>& factors = beyond_original ? weights.rope_factors_long : weights.rope_factors;
    double& magnitude = table.frequencies.magnitude;
    magnitude = h.rope_attention_factor;
    if (h.rope_scaling == RopeScaling::Yarn) magnitude *= 1.0 + 0.1 * std::log(static_cast<double>(h.rope_factor));

    std::vector<float>& frequencies = table.frequencies.radians;
    frequencies.resize(table.n_frequencies);
    for (uint32_t j = 0; j < table.n_frequencies; ++j) {
        double frequency = std::pow(static_cast<double>(h.rope_base), -2.0 * j / h.rotary_dim);
        if (!factors.empty()) {
            if (!(factors[j] > 0.0f)) fail(DCA_ERROR_FORMAT, "RoPE frequency factor ", j, " is ", factors[j], ", must be positive");
            frequency /= factors[j];
        }
        if (h.rope_scaling == RopeScaling::Linear) frequency /= h.rope_factor;
        if (h.rope_scaling == RopeScaling::Yarn) {
            const double share = yarn_interpolated_share(h, j);
            frequency = share * frequency / h.rope_factor + (1.0 - share) * frequency;
        }
        frequencies[j] = static_cast<float>(frequency);
    }

    return table;
}

RopeTable plan_window_rope_table(const Hparams& hparams, const Weights& weights, uint32_t context) {
    Hparams h = hparams;
    h.rope_base = h.window_rope_base;
    const Scheme scheme = window_scheme(h.window);
    if (h.window_rope_scaled) return plan_rope_table(h, weights, scheme, context);
    h.rope_scaling = RopeScaling::None;
    h.rope_attention_factor = 1.0f;
    return plan_rope_table(h, Weights{}, scheme, context);
}

void RopeTable::fill() {
    const size_t entries = size_t{positions} * n_frequencies;
    cos.resize(entries);
    sin.resize(entries);
    for (uint32_t row = 0; row < positions; ++row) {
        const uint32_t position = row + 1 == positions ? last_position : row;
        for (uint32_t j = 0; j < n_frequencies; ++j) {
            const double angle = static_cast<double>(position) * frequencies.radians[j];
            const size_t at = size_t{row} * n_frequencies + j;
            cos[at] = static_cast<float>(std::cos(angle) * frequencies.magnitude);
            sin[at] = static_cast<float>(std::sin(angle) * frequencies.magnitude);
        }
    }
}

}  // namespace dca
