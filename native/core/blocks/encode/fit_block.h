// The searches behind Q4_0, Q4_1, Q5_0 and Q5_1 where errors are weighted. Without weights the formats' own formulas stand
// (encode.h); here sixteen blocks of 32 values side by side try scales, solve for the one that suits the levels best, and
// keep the best trial, as the fits of the K-quants do for their sub-blocks.
#pragma once

#include "core/blocks/layouts.h"
#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// x[i] = d * q[i], q in -kHalf ... kHalf - 1.
template <int kHalf>
class SymmetricBlockFit {
public:
    Floats16 d;          // an exact half
    Floats16 q[kBlock];  // integers

    explicit SymmetricBlockFit(const SubBlocks<kBlock>& values) {
        d = as_half(best_scale(values));
        const Floats16 inverse_scale = inverse(d);
        for (int i = 0; i < kBlock; ++i) q[i] = level(values.x[i], inverse_scale);
    }

private:
    static Floats16 level(Floats16 x, Floats16 inverse_scale) { return nearest(clamp(x * inverse_scale, -kHalf, kHalf - 1)); }

    static Floats16 best_scale(const SubBlocks<kBlock>& values) {
        Floats16 peak = 0.0f;
        for (int i = 0; i < kBlock; ++i) peak = select(abs(values.x[i]) > abs(peak), values.x[i], peak);
        Floats16 best = 0.0f, best_gain = 0.0f;
        for (int trial = 0; trial < kTrials; ++trial) {
            for (const float sign : {-1.0f, 1.0f}) {  // the peak may go to either end
                const Floats16 inverse_scale = inverse(peak * (sign / trial_levels(trial, kHalf)));
                Floats16 qq = 0.0f, xq = 0.0f;
                for (int i = 0; i < kBlock; ++i) {
                    const Floats16 q = level(values.x[i], inverse_scale);
                    const Floats16 wq = values.weight[i] * q;
                    qq += wq * q;
                    xq += wq * values.x[i];
                }
                const Floats16 gain = xq * xq / qq;      // error saved against all zeros
                const Mask16 better = gain > best_gain;  // false for the NaN of all zeros
                best_gain = select(better, gain, best_gain);
                best = select(better, xq / qq, best);
            }
        }
        return best;
    }
};

/// x[i] = d * q[i] + m, q in 0 ... kMaxQ.
template <int kMaxQ>
class AffineBlockFit {
public:
    Floats16 d, m;       // exact halves
    Floats16 q[kBlock];  // integers

    explicit AffineBlockFit(const SubBlocks<kBlock>& values) {
        Floats16 low = values.x[0], high = values.x[0];
        for (int i = 0; i < kBlock; ++i) {
            low = minimum(low, values.x[i]);
            high = maximum(high, values.x[i]);
        }
        d = as_half((high - low) * (1.0f / kMaxQ));
        m = as_half(low);
        Floats16 least_error = error(values, d, m);
        for (int trial = 0; trial < kTrials; ++trial) {
            Floats16 trial_d = (high - low) * (1.0f / trial_levels(trial, kMaxQ)), trial_m = low;
            for (int round = 0; round < 2; ++round) {
                solve(values, trial_d, trial_m);
                const Floats16 half_d = as_half(trial_d), half_m = as_half(trial_m);
                const Floats16 trial_error = error(values, half_d, half_m);
                const Mask16 better = trial_error < least_error;
                least_error = select(better, trial_error, least_error);
                d = select(better, half_d, d);
                m = select(better, half_m, m);
            }
        }
        const Floats16 inverse_scale = inverse(d);
        for (int i = 0; i < kBlock; ++i) q[i] = level(values.x[i], m, inverse_scale);
    }

private:
    static Floats16 level(Floats16 x, Floats16 m, Floats16 inverse_scale) { return nearest(clamp((x - m) * inverse_scale, 0, kMaxQ)); }

    static Floats16 error(const SubBlocks<kBlock>& values, Floats16 d, Floats16 m) {
        const Floats16 inverse_scale = inverse(d);
        Floats16 error = 0.0f;
        for (int i = 0; i < kBlock; ++i) {
            const Floats16 off = d * level(values.x[i], m, inverse_scale) + m - values.x[i];
            error += values.weight[i] * (off * off);
        }
        return error;
    }

    /// The line that suits the levels of (d, m) best, into them; they stay where there is none.
    static void solve(const SubBlocks<kBlock>& values, Floats16& d, Floats16& m) {
        const Floats16 inverse_scale = inverse(d);
        Floats16 one = 0.0f, x = 0.0f, q = 0.0f, qq = 0.0f, xq = 0.0f;
        for (int i = 0; i < kBlock; ++i) {
            const Floats16 each = level(values.x[i], m, inverse_scale);
            const Floats16 wq = values.weight[i] * each;
            one += values.weight[i];
            x += values.weight[i] * values.x[i];
            q += wq;
            qq += wq * each;
            xq += wq * values.x[i];
        }
        const Floats16 det = one * qq - q * q;
        const Floats16 solved_d = (one * xq - x * q) / det;
        const Mask16 solvable = both(det > 1e-5f * (one * qq), solved_d > 0.0f);
        m = select(solvable, (qq * x - q * xq) / det, m);
        d = select(solvable, solved_d, d);
    }
};

}  // namespace
}  // namespace dca
