// Rotary embedding tables: cos and sin of every position a session can use.
#pragma once

#include <cstdint>
#include <vector>

#include "core/hparams.h"
#include "core/positions/scheme.h"
#include "core/weights.h"

namespace dca {

/// What tells one RoPE from another.
struct RopeFrequencies {
    std::vector<float> radians;  // (rotary_dim / 2) a position
    double magnitude = 1.0;      // the attention factor, of cos and sin

    bool operator==(const RopeFrequencies&) const = default;
};

/// A row for every position that sequences use (Scheme::table_rows). A plan until fill() computes it: backends do that
/// once they know that everything fits.
struct RopeTable {
    RopeFrequencies frequencies;
    uint32_t positions = 0;      // rows: positions 0, 1, ... but for the last one's
    uint32_t last_position = 0;  // of the last row
    uint32_t n_frequencies = 0;  // rotary_dim / 2
    RopeLayout layout = RopeLayout::Interleaved;
    std::vector<float> cos, sin;  // (positions, n_frequencies), times the attention factor

    uint64_t bytes() const noexcept { return uint64_t{2} * positions * n_frequencies * sizeof(float); }

    /// Angles are computed in double precision from frequencies rounded to f32, as models were trained with.
    void fill();

    const float* cos_row(uint32_t row) const noexcept { return cos.data() + size_t{row} * n_frequencies; }
    const float* sin_row(uint32_t row) const noexcept { return sin.data() + size_t{row} * n_frequencies; }
};

/// The hparams with another RoPE scaling in place of the file's: a dca_rope and its factor, for `positions` positions.
/// Throws an argument error if there is no such kind or the factor is below 1.
Hparams with_rope(const Hparams& hparams, int32_t rope, float factor, uint32_t positions);

/// The table for sequences of up to `context` tokens under `scheme`, not yet computed.
RopeTable plan_rope_table(const Hparams& hparams, const Weights& weights, const Scheme& scheme, uint32_t context);

/// The same for layers with a window, under window_scheme(), with the base and the scaling that are theirs.
RopeTable plan_window_rope_table(const Hparams& hparams, const Weights& weights, uint32_t context);

}  // namespace dca
