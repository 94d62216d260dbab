// The search behind IQ4_NL, whose sixteen levels are unevenly spaced.
#pragma once

#include "core/blocks/layouts.h"
#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// Finds x[i] = d * kIQ4NLValues[q[i]] with little weighted squared error, for sixteen blocks of 32
/// values side by side: quantise with trial scales, solve for the d that suits those levels best,
/// keep the best trial.
class GridFit {
public:
    Floats16 d;          // an exact half
    Floats16 q[kBlock];  // indices of levels

    explicit GridFit(const SubBlocks<kBlock>& values) {
        d = as_half(best_scale(values));
        const Floats16 inverse_scale = inverse(d);
        for (int i = 0; i < kBlock; ++i) q[i] = nearest_level(values.x[i] * inverse_scale).index;
    }

private:
    struct Level {
        Floats16 index, value;
    };

    static Level nearest_level(Floats16 x) {
        Level level{0.0f, static_cast<float>(kIQ4NLValues[0])};
        for (int k = 1; k < 16; ++k) {
            const float below = kIQ4NLValues[k - 1], above = kIQ4NLValues[k];
            const Mask16 reached = x > 0.5f * (below + above);
            level.index = select(reached, static_cast<float>(k), level.index);
            level.value = select(reached, above, level.value);
        }
        return level;
    }

    static Floats16 best_scale(const SubBlocks<kBlock>& values) {
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
};

}  // namespace
}  // namespace dca
