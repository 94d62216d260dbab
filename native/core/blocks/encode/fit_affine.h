// The search behind Q2_K, Q4_K and Q5_K, whose sub-blocks have a scale and a minimum.
#pragma once

#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// Finds the integers and halves of
///     x[i] = (d * scale) * q[i] - (dmin * min),   q in 0 ... kMaxQ,   scale and min in 0 ... kMaxScale
/// that leave little weighted squared error. scale and min belong to a sub-block of kN values, d and
/// dmin to a super-block of kGroup sub-blocks; 16 / kGroup super-blocks are fitted side by side.
///   1. Every sub-block on its own: quantise with trial scales, solve for the real scale and minimum
///      that suit those levels best, keep the best trial.
///   2. d and dmin such that the largest real scale and minimum become kMaxScale.
///   3. Every sub-block again: try the integers around, with the values rounded anew for each.
///   4. With all integers fixed, solve for d and dmin; repeat from 3.
template <int kN, int kMaxQ, int kMaxScale>
class AffineFit {
public:
    static constexpr int kGroup = 256 / kN;

    Floats16 d{0.0f}, dmin{0.0f};     // exact halves, the same over a group
    Floats16 scale{0.0f}, min{0.0f};  // integers
    Floats16 q[kN];                   // integers

    explicit AffineFit(const SubBlocks<kN>& values) {
        const Line real = best_line(values);
        Super super{as_half(group_peak<kGroup>(real.scale) * (1.0f / kMaxScale)),
                    as_half(group_peak<kGroup>(real.min) * (1.0f / kMaxScale))};
        Floats16 least_error = HUGE_VALF;
        for (int round = 0; round < kFitRounds; ++round) {
            const Integers integers = best_integers(values, super, real);
            const Floats16 error = group_sum<kGroup>(integers.error);
            const Mask16 better = error < least_error;
            least_error = select(better, error, least_error);
            d = select(better, super.d, d);
            dmin = select(better, super.dmin, dmin);
            scale = select(better, integers.scale, scale);
            min = select(better, integers.min, min);
            if (round + 1 < kFitRounds) super = best_super(sums(values, integers.line(super)), integers, super);
        }
        const Line line{d * scale, dmin * min};
        const Floats16 inverse_scale = inverse(line.scale);
        for (int i = 0; i < kN; ++i) q[i] = level(values.x[i], line, inverse_scale);
    }

private:
    struct Line {  // x ~ scale * q - min
        Floats16 scale, min;
    };
    struct Super {
        Floats16 d, dmin;
    };
    struct Integers {
        Floats16 scale, min, error;
        Line line(Super super) const { return {super.d * scale, super.dmin * min}; }
    };
    struct Sums {  // over a sub-block, weighted; one is the sum of the weights
        Floats16 one{0.0f}, x{0.0f}, q{0.0f}, qq{0.0f}, xq{0.0f};
    };

    /// A determinant smaller than this share of its first product is rounding noise.
    static constexpr float kSingular = 1e-5f;

    static Floats16 level(Floats16 x, Line line, Floats16 inverse_scale) {
        return nearest(clamp((x + line.min) * inverse_scale, 0, kMaxQ));
    }

    /// Sums with the levels that `line` gives.
    static Sums sums(const SubBlocks<kN>& values, Line line) {
        const Floats16 inverse_scale = inverse(line.scale);
        Sums sums;
        for (int i = 0; i < kN; ++i) {
            const Floats16 q = level(values.x[i], line, inverse_scale);
            const Floats16 wq = values.weight[i] * q;
            sums.one += values.weight[i];
            sums.x += values.weight[i] * values.x[i];
            sums.q += wq;
            sums.qq += wq * q;
            sums.xq += wq * values.x[i];
        }
        return sums;
    }

    static Floats16 error(const SubBlocks<kN>& values, Line line) {
        const Floats16 inverse_scale = inverse(line.scale);
        Floats16 error = 0.0f;
        for (int i = 0; i < kN; ++i) {
            const Floats16 off = line.scale * level(values.x[i], line, inverse_scale) - line.min - values.x[i];
            error += values.weight[i] * (off * off);
        }
        return error;
    }

    static Line best_line(const SubBlocks<kN>& values) {
        Floats16 low = 0.0f, high = values.x[0];
        for (int i = 0; i < kN; ++i) {
            low = minimum(low, values.x[i]);
            high = maximum(high, values.x[i]);
        }
        Line best{0.0f, 0.0f - low};
        Floats16 best_gain = 0.0f;
        for (int trial = 0; trial < kTrials; ++trial) {
            const Sums s = sums(values, {(high - low) * (1.0f / trial_levels(trial, kMaxQ)), 0.0f - low});
            const Floats16 det = s.one * s.qq - s.q * s.q;
            const Floats16 free_min = (s.q * s.xq - s.qq * s.x) / det;
            // Without a minimum (it may not be negative) the line goes through zero.
            const Mask16 free = both(det > kSingular * (s.one * s.qq), free_min > 0.0f);
            const Line line{select(free, (s.one * s.xq - s.x * s.q) / det, s.xq / s.qq), select(free, free_min, 0.0f)};
            const Floats16 gain = line.scale * s.xq - line.min * s.x;  // error saved against all zeros
            const Mask16 better = gain > best_gain;                    // false for the NaN of a line without levels
            best_gain = select(better, gain, best_gain);
            best.scale = select(better, line.scale, best.scale);
            best.min = select(better, line.min, best.min);
        }
        return best;
    }

    static Integers best_integers(const SubBlocks<kN>& values, Super super, Line real) {
        const Floats16 near_scale = nearest(clamp(real.scale * inverse(super.d), 0, kMaxScale));
        const Floats16 near_min = nearest(clamp(real.min * inverse(super.dmin), 0, kMaxScale));
        Integers best{near_scale, near_min, HUGE_VALF};
        for (const float scale_step : {-1.0f, 0.0f, 1.0f}) {
            for (const float min_step : {-1.0f, 0.0f, 1.0f}) {
                Integers trial{clamp(near_scale + scale_step, 0, kMaxScale), clamp(near_min + min_step, 0, kMaxScale), 0.0f};
                trial.error = error(values, trial.line(super));
                const Mask16 better = trial.error < best.error;
                best.scale = select(better, trial.scale, best.scale);
                best.min = select(better, trial.min, best.min);
                best.error = select(better, trial.error, best.error);
            }
        }
        return best;
    }

    /// Least squares for d and dmin over a super-block, the levels and integers given.
    static Super best_super(const Sums& s, const Integers& n, Super old) {
        const Floats16 dd = group_sum<kGroup>(n.scale * n.scale * s.qq);
        const Floats16 dm = group_sum<kGroup>(n.scale * n.min * s.q);
        const Floats16 mm = group_sum<kGroup>(n.min * n.min * s.one);
        const Floats16 dx = group_sum<kGroup>(n.scale * s.xq);
        const Floats16 mx = group_sum<kGroup>(n.min * s.x);
        const Floats16 det = dd * mm - dm * dm;
        const Mask16 solvable = det > kSingular * (dd * mm);
        const Floats16 d = select(solvable, (dx * mm - mx * dm) / det, dx / dd);
        const Floats16 dmin = select(solvable, (dx * dm - mx * dd) / det, old.dmin);
        return {as_half(select(d > 0.0f, d, old.d)), as_half(select(dmin > 0.0f, dmin, old.dmin))};
    }
};

}  // namespace
}  // namespace dca
