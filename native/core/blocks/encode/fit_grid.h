// The searches behind IQ4_NL and IQ4_XS, whose sixteen levels are unevenly spaced.
#pragma once

#include "core/blocks/layouts.h"
#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// The nearest of kIQ4NLValues, and which one it is.
struct Level {
    Floats16 index, value;
};

inline Level nearest_level(Floats16 x) {
    Level level{0.0f, static_cast<float>(kIQ4NLValues[0])};
    for (int k = 1; k < 16; ++k) {
        const float below = kIQ4NLValues[k - 1], above = kIQ4NLValues[k];
        const Mask16 reached = x > 0.5f * (below + above);
        level.index = select(reached, static_cast<float>(k), level.index);
        level.value = select(reached, above, level.value);
    }
    return level;
}

/// The scale of each block of 32 values that leaves little weighted squared error: quantise with trial scales, solve for the
/// one that suits those levels best, keep the best trial.
inline Floats16 best_grid_scale(const SubBlocks<kBlock>& values) {
    Floats16 peak = 0.0f;
    for (int i = 0; i < kBlock; ++i) peak = select(abs(values.x[i]) > abs(peak), values.x[i], peak);
    Floats16 best = 0.0f, best_gain = 0.0f;
    for (int trial = 0; trial < kTrials; ++trial) {
        for (const int end : {kIQ4NLValues[0], kIQ4NLValues[15]}) {  // the peak may go to either end
            const float clipped = 0.8f + 0.4f * static_cast<float>(trial) / static_cast<float>(kTrials - 1);
            const Floats16 inverse_scale = inverse(peak * (1.0f / (clipped * static_cast<float>(end))));
            Floats16 vv = 0.0f, xv = 0.0f;
            for (int i = 0; i < kBlock; ++i) {
                const Floats16 value = nearest_level(values.x[i] * inverse_scale).value;
                const Floats16 wv = values.weight[i] * value;
                vv += wv * value;
                xv += wv * values.x[i];
            }
            const Floats16 gain = xv * xv / vv;      // error saved against all zeros
            const Mask16 better = gain > best_gain;  // false for the NaN of all zeros
            best_gain = select(better, gain, best_gain);
            best = select(better, xv / vv, best);
        }
    }
    return best;
}

/// Finds x[i] = d * kIQ4NLValues[q[i]] with little weighted squared error, for sixteen blocks of 32 values side by side.
class GridFit {
public:
    Floats16 d;          // an exact half
    Floats16 q[kBlock];  // indices of levels

    explicit GridFit(const SubBlocks<kBlock>& values) {
        d = as_half(best_grid_scale(values));
        const Floats16 inverse_scale = inverse(d);
        for (int i = 0; i < kBlock; ++i) q[i] = nearest_level(values.x[i] * inverse_scale).index;
    }
};

/// Finds x[i] = (d * scale) * kIQ4NLValues[q[i]], scale in -32 ... 31, for two super-blocks of eight such blocks side by side.
/// The steps are those of SymmetricFit.
class GridSuperFit {
public:
    static constexpr int kGroup = 8;  // sub-blocks that share a d

    Floats16 d{0.0f};      // an exact half, the same for a group
    Floats16 scale{0.0f};  // integers
    Floats16 q[kBlock];    // indices of levels

    explicit GridSuperFit(const SubBlocks<kBlock>& values) {
        const Floats16 real = best_grid_scale(values);
        Floats16 super = as_half(group_peak<kGroup>(real) * (-1.0f / 32));
        Floats16 least_error = HUGE_VALF;
        for (int round = 0; round < kFitRounds; ++round) {
            const Integers integers = best_integers(values, super, real);
            const Floats16 error = group_sum<kGroup>(integers.error);
            const Mask16 better = error < least_error;
            least_error = select(better, error, least_error);
            d = select(better, super, d);
            scale = select(better, integers.scale, scale);
            if (round + 1 < kFitRounds) super = best_super(values, integers.scale, super);
        }
        const Floats16 inverse_scale = inverse(d * scale);
        for (int i = 0; i < kBlock; ++i) q[i] = nearest_level(values.x[i] * inverse_scale).index;
    }

private:
    struct Integers {
        Floats16 scale, error;
    };

    static Floats16 error(const SubBlocks<kBlock>& values, Floats16 scale) {
        const Floats16 inverse_scale = inverse(scale);
        Floats16 error = 0.0f;
        for (int i = 0; i < kBlock; ++i) {
            const Floats16 off = scale * nearest_level(values.x[i] * inverse_scale).value - values.x[i];
            error += values.weight[i] * (off * off);
        }
        return error;
    }

    static Integers best_integers(const SubBlocks<kBlock>& values, Floats16 super, Floats16 real) {
        const Floats16 near = nearest(clamp(real * inverse(super), -32.0f, 31.0f));
        Integers best{near, HUGE_VALF};
        for (const float step : {-1.0f, 0.0f, 1.0f}) {
            Integers trial{clamp(near + step, -32.0f, 31.0f), 0.0f};
            trial.error = error(values, super * trial.scale);
            const Mask16 better = trial.error < best.error;
            best.scale = select(better, trial.scale, best.scale);
            best.error = select(better, trial.error, best.error);
        }
        return best;
    }

    /// Least squares for d over a super-block, the levels and integers given.
    static Floats16 best_super(const SubBlocks<kBlock>& values, Floats16 scale, Floats16 old) {
        const Floats16 inverse_scale = inverse(old * scale);
        Floats16 vv = 0.0f, xv = 0.0f;
        for (int i = 0; i < kBlock; ++i) {
            const Floats16 value = scale * nearest_level(values.x[i] * inverse_scale).value;
            const Floats16 wv = values.weight[i] * value;
            vv += wv * value;
            xv += wv * values.x[i];
        }
        const Floats16 solved = group_sum<kGroup>(xv) / group_sum<kGroup>(vv);
        return as_half(select(abs(solved) > 0.0f, solved, old));
    }
};

}  // namespace
}  // namespace dca
