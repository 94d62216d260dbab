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
    const double low = std::max(0.0, std::floor(yarn_dimension(h, h.yarn_beta_fast)));
    const double high = std::min(h.rotary_dim - 1.0, std::ceil(yarn_dimension(h, h.yarn_beta_slow)));
    return std::clamp((j - low) / std::max(0.001, high - low), 0.0, 1.0);
}

}  // namespace

RopeTable make_rope_table(const Hparams& h, const Weights& weights, const Scheme& scheme, uint32_t context) {
    RopeTable table;
    table.positions = scheme.position_count(context);
    table.n_frequencies = h.rotary_dim / 2;
    table.layout = h.rope_layout;

    const bool beyond_original = h.rope_scaling == RopeScaling::LongRope && table.positions > h.rope_original_context;
    const std::vector<float>& factors = beyond_original ? weights.rope_factors_long : weights.rope_factors;
    double magnitude = h.rope_attention_factor;
    if (h.rope_scaling == RopeScaling::Yarn) magnitude *= 1.0 + 0.1 * std::log(static_cast<double>(h.rope_factor));

    std::vector<float> frequencies(table.n_frequencies);
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

    const size_t entries = size_t{table.positions} * table.n_frequencies;
    table.cos.resize(entries);
    table.sin.resize(entries);
    for (uint32_t position = 0; position < table.positions; ++position) {
        for (uint32_t j = 0; j < table.n_frequencies; ++j) {
            const double angle = static_cast<double>(position) * frequencies[j];
            const size_t at = size_t{position} * table.n_frequencies + j;
            table.cos[at] = static_cast<float>(std::cos(angle) * magnitude);
            table.sin[at] = static_cast<float>(std::sin(angle) * magnitude);
        }
    }
    return table;
}

}  // namespace dca
