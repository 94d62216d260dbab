// The search behind Q3_K and Q6_K, whose sub-blocks have a signed scale and no minimum.
#pragma once

#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// Finds the integers and the half of
///     x[i] = (d * scale) * q[i],   q in -kHalfQ ... kHalfQ - 1,   scale in -kHalfScale ... kHalfScale - 1
/// that leave little weighted squared error. scale belongs to a sub-block of 16 values, d to the
/// super-block of 16 sub-blocks. The steps are those of AffineFit.
template <int kHalfQ, int kHalfScale>
class SymmetricFit {
public:
    static constexpr int kN = 16;
    static constexpr int kCoarser = 8;  // grids of scales that are tried besides, each a 64th of the integers shorter

    Floats16 d{0.0f};      // an exact half, the same for all
    Floats16 scale{0.0f};  // integers
    Floats16 q[kN];        // integers

    explicit SymmetricFit(const SubBlocks<kN>& values) {
        const Floats16 real = best_scale(values), peak = group_peak<Floats16::size>(real);
        Floats16 least_error = HUGE_VALF;
        const auto attempt = [&](Floats16 super) {
            const Integers integers = best_integers(values, super, real);
            const Floats16 error = group_sum<Floats16::size>(integers.error);
            const Mask16 better = error < least_error;
            least_error = select(better, error, least_error);
            d = select(better, super, d);
            scale = select(better, integers.scale, scale);
            return integers;
        };
        Floats16 super = as_half(peak * (-1.0f / kHalfScale));
        for (int round = 0; round < kFitRounds; ++round) {
            const Integers integers = attempt(super);
            if (round + 1 < kFitRounds) super = best_super(sums(values, super * integers.scale), integers, super);
        }
        // Solving does not leave the integers it starts from far behind: coarser grids may suit all sixteen scales better.
        for (int trial = 1; trial <= kCoarser; ++trial) {
            attempt(as_half(peak * (-1.0f / (kHalfScale * (1.0f - static_cast<float>(trial) / 64.0f)))));
        }
        const Floats16 inverse_scale = inverse(d * scale);
        for (int i = 0; i < kN; ++i) q[i] = level(values.x[i], inverse_scale);
    }

private:
    struct Integers {
        Floats16 scale, error;
    };
    struct Sums {  // over a sub-block, weighted
        Floats16 qq{0.0f}, xq{0.0f};
    };

    static Floats16 level(Floats16 x, Floats16 inverse_scale) { return nearest(clamp(x * inverse_scale, -kHalfQ, kHalfQ - 1)); }

    /// Sums with the levels that `scale` gives.
    static Sums sums(const SubBlocks<kN>& values, Floats16 scale) {
        const Floats16 inverse_scale = inverse(scale);
        Sums sums;
        for (int i = 0; i < kN; ++i) {
            const Floats16 q = level(values.x[i], inverse_scale);
            const Floats16 wq = values.weight[i] * q;
            sums.qq += wq * q;
            sums.xq += wq * values.x[i];
        }
        return sums;
    }

    static Floats16 error(const SubBlocks<kN>& values, Floats16 scale) {
        const Floats16 inverse_scale = inverse(scale);
        Floats16 error = 0.0f;
        for (int i = 0; i < kN; ++i) {
            const Floats16 off = scale * level(values.x[i], inverse_scale) - values.x[i];
            error += values.weight[i] * (off * off);
        }
        return error;
    }

    static Floats16 best_scale(const SubBlocks<kN>& values) {
        Floats16 peak = 0.0f;
        for (int i = 0; i < kN; ++i) peak = select(abs(values.x[i]) > abs(peak), values.x[i], peak);
        Floats16 best = 0.0f, best_gain = 0.0f;
        for (int trial = 0; trial < kTrials; ++trial) {
            // There is one level more on the negative side; the peak may go to either.
            for (const float levels : {-trial_levels(trial, kHalfQ), trial_levels(trial, kHalfQ - 1)}) {
                const Sums s = sums(values, peak * (1.0f / levels));
                const Floats16 gain = s.xq * s.xq / s.qq;  // error saved against all zeros
                const Mask16 better = gain > best_gain;    // false for the NaN of all zeros
                best_gain = select(better, gain, best_gain);
                best = select(better, s.xq / s.qq, best);
            }
        }
        return best;
    }

    static Integers best_integers(const SubBlocks<kN>& values, Floats16 super, Floats16 real) {
        const Floats16 near = nearest(clamp(real * inverse(super), -kHalfScale, kHalfScale - 1));
        Integers best{near, HUGE_VALF};
        for (const float step : {-1.0f, 0.0f, 1.0f}) {
            Integers trial{clamp(near + step, -kHalfScale, kHalfScale - 1), 0.0f};
            trial.error = error(values, super * trial.scale);
            const Mask16 better = trial.error < best.error;
            best.scale = select(better, trial.scale, best.scale);
            best.error = select(better, trial.error, best.error);
        }
        return best;
    }

    /// Least squares for d over the super-block, the levels and integers given.
    static Floats16 best_super(const Sums& s, const Integers& n, Floats16 old) {
        const Floats16 solved = group_sum<Floats16::size>(n.scale * s.xq) / group_sum<Floats16::size>(n.scale * n.scale * s.qq);
        return as_half(select(abs(solved) > 0.0f, solved, old));
    }
};

}  // namespace
}  // namespace dca
