// Sixteen sub-blocks side by side, one a lane: what the fits of the K-quants and of IQ4_NL share.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cmath>
#include <initializer_list>

#include "core/half.h"
#include "core/lanes.h"

namespace dca {
namespace {

/// Trial scales of a fit's first step. They span from one level more than there are (the extreme
/// values keep clear of the last levels) to a fifth less (extreme values are clipped).
inline constexpr int kTrials = 16;

/// How many levels the values span in a trial, for a format that has `levels`.
inline float trial_levels(int trial, int levels) {
    const float from = 0.8f * float(levels), to = float(levels + 1);
    return from + (to - from) * float(trial) / float(kTrials - 1);
}

/// Rounds of solving for a super-block's scale; a fourth gains less than a thousandth of the error.
inline constexpr int kFitRounds = 3;

/// Values of sixteen sub-blocks and what a squared error at each counts.
template <int n>
struct SubBlocks {
    Lanes x[n];  // x[i]: the i-th value of each sub-block
    Lanes weight[n];

    /// From n values a sub-block, one sub-block after the other. Those from n_lanes on are zeros.
    SubBlocks(const float* in, int n_lanes) {
        float transposed[n][kLanes] = {};
        for (int lane = 0; lane < n_lanes; ++lane)
            for (int i = 0; i < n; ++i) transposed[i][lane] = in[lane * n + i];
        Lanes squares = 0.0f;
        for (int i = 0; i < n; ++i) {
            x[i] = Lanes::load(transposed[i]);
            squares += x[i] * x[i];
        }
        // Large weights contribute more to a product and deserve more care, but not by their square:
        // that would give up the small ones.
        const Lanes rms = sqrt(squares * (1.0f / n));
        for (int i = 0; i < n; ++i) weight[i] = rms + abs(x[i]);
    }
};

/// Levels in lanes back to one sub-block after the other, as unsigned bytes: q + offset.
template <int n>
void store_levels(const Lanes (&q)[n], float offset, uint8_t* out) {
    for (int i = 0; i < n; ++i) {
        uint8_t levels[kLanes];
        store_bytes(q[i] + offset, levels);
        for (int lane = 0; lane < kLanes; ++lane) out[lane * n + i] = levels[lane];
    }
}

/// 1 / scale, and 0 for a scale of 0.
inline Lanes inverse(Lanes scale) { return select(abs(scale) > 0.0f, 1.0f / scale, 0.0f); }

/// Gives every lane the combination of its group of `size` neighbours.
template <int size, class Combine>
Lanes over_group(Lanes lanes, Combine combine) {
    float values[kLanes];
    lanes.store(values);
    for (int first = 0; first < kLanes; first += size) {
        float all = values[first];
        for (int i = 1; i < size; ++i) all = combine(all, values[first + i]);
        for (int i = 0; i < size; ++i) values[first + i] = all;
    }
    return Lanes::load(values);
}

template <int size>
Lanes group_sum(Lanes lanes) {
    return over_group<size>(lanes, [](float a, float b) { return a + b; });
}

/// The value of largest magnitude with its sign.
template <int size>
Lanes group_peak(Lanes lanes) {
    return over_group<size>(lanes, [](float a, float b) { return std::fabs(b) > std::fabs(a) ? b : a; });
}

/// Rounded to what a block can hold.
inline Lanes as_half(Lanes lanes) {
    float values[kLanes];
    lanes.store(values);
    for (float& value : values) value = half_to_float(float_to_half(value));
    return Lanes::load(values);
}

}  // namespace
}  // namespace dca
