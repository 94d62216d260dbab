// Sixteen sub-blocks side by side, one to each float of a Floats16: what the fits of the K-quants and of IQ4_NL share.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cmath>
#include <initializer_list>

#include "core/blocks/half.h"
#include "core/blocks/floats16.h"

namespace dca {
namespace {

/// Trial scales of a fit's first step. They span from one level more than there are (the extreme
/// values keep clear of the last levels) to a fifth less (extreme values are clipped).
inline constexpr int kTrials = 16;

/// How many levels the values span in a trial, for a format that has `levels`.
inline float trial_levels(int trial, int levels) {
    const float from = 0.8f * static_cast<float>(levels), to = static_cast<float>(levels + 1);
    return from + (to - from) * static_cast<float>(trial) / static_cast<float>(kTrials - 1);
}

/// Rounds of solving for a super-block's scale; a fourth gains less than a thousandth of the error.
inline constexpr int kFitRounds = 3;

/// Values of sixteen sub-blocks and what a squared error at each counts.
template <int n>
struct SubBlocks {
    Floats16 x[n];  // x[i]: the i-th value of each sub-block
    Floats16 weight[n];

    /// From n values a sub-block, one sub-block after the other. Those from `count` on are zeros. `importance`, where there
    /// is one, is what an error at each value counts beside the value itself. `least`: what a value of zero counts, in rms.
    SubBlocks(const float* in, int count, const float* importance = nullptr, float least = 1.0f) {
        float transposed[n][Floats16::size] = {};
        for (int b = 0; b < count; ++b)
            for (int i = 0; i < n; ++i) transposed[i][b] = in[b * n + i];
        Floats16 squares = 0.0f;
        for (int i = 0; i < n; ++i) {
            x[i] = Floats16::load(transposed[i]);
            squares += x[i] * x[i];
        }
        // Large weights contribute more to a product and deserve more care, but not by their square:
        // that would give up the small ones.
        const Floats16 rms = sqrt(squares * (1.0f / n));
        for (int i = 0; i < n; ++i) weight[i] = least * rms + abs(x[i]);
        if (importance == nullptr) return;
        for (int b = 0; b < count; ++b)
            for (int i = 0; i < n; ++i) transposed[i][b] = importance[b * n + i];
        for (int i = 0; i < n; ++i) weight[i] = weight[i] * Floats16::load(transposed[i]);
    }
};

/// Levels side by side back to one sub-block after the other, as unsigned bytes: q + offset.
template <int n>
void store_levels(const Floats16 (&q)[n], float offset, uint8_t* out) {
    for (int i = 0; i < n; ++i) {
        uint8_t levels[Floats16::size];
        store_bytes(q[i] + offset, levels);
        for (int b = 0; b < Floats16::size; ++b) out[b * n + i] = levels[b];
    }
}

/// 1 / scale, and 0 for a scale of 0.
inline Floats16 inverse(Floats16 scale) { return select(abs(scale) > 0.0f, 1.0f / scale, 0.0f); }

/// Gives every sub-block the combination of its group of `size` neighbours.
template <int size, class Combine>
Floats16 over_group(Floats16 x, Combine combine) {
    float values[Floats16::size];
    x.store(values);
    for (int first = 0; first < Floats16::size; first += size) {
        float all = values[first];
        for (int i = 1; i < size; ++i) all = combine(all, values[first + i]);
        for (int i = 0; i < size; ++i) values[first + i] = all;
    }
    return Floats16::load(values);
}

template <int size>
Floats16 group_sum(Floats16 x) {
    return over_group<size>(x, [](float a, float b) { return a + b; });
}

/// The value of largest magnitude with its sign.
template <int size>
Floats16 group_peak(Floats16 x) {
    return over_group<size>(x, [](float a, float b) { return std::fabs(b) > std::fabs(a) ? b : a; });
}

/// Rounded to what a block can hold.
inline Floats16 as_half(Floats16 x) {
    float values[Floats16::size];
    x.store(values);
    for (float& value : values) value = half_to_float(float_to_half(value));
    return Floats16::load(values);
}

}  // namespace
}  // namespace dca
