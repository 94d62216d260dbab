// Rotary embedding tables: cos and sin of every position a session can use.
#pragma once

#include <cstdint>
#include <vector>

#include "core/hparams.h"
#include "core/scheme.h"
#include "core/weights.h"

namespace dca {

/// What tells one RoPE from another.
struct RopeFrequencies {
    std::vector<float> radians;  // (rotary_dim / 2) a position
    double magnitude = 1.0;      // the attention factor, of cos and sin

    bool operator==(const RopeFrequencies&) const = default;
};

struct RopeTable {
    RopeFrequencies frequencies;
    uint32_t positions = 0;
    uint32_t n_frequencies = 0;  // rotary_dim / 2
    RopeLayout layout = RopeLayout::Interleaved;
    std::vector<float> cos, sin;  // (positions, n_frequencies), times the attention factor

    const float* cos_row(uint32_t position) const noexcept { return cos.data() + size_t{position} * n_frequencies; }
    const float* sin_row(uint32_t position) const noexcept { return sin.data() + size_t{position} * n_frequencies; }
};

/// The hparams with another RoPE scaling in place of the file's: a dca_rope and its factor.
/// Throws an argument error if there is no such kind or the factor is below 1.
Hparams with_rope(const Hparams& hparams, int32_t rope, float factor);

/// The table for sequences of up to `context` tokens under `scheme`. Angles are computed in
/// double precision from frequencies rounded to f32, as models were trained with.
RopeTable make_rope_table(const Hparams& hparams, const Weights& weights, const Scheme& scheme, uint32_t context);

}  // namespace dca
