// The search behind IQ4_NL, whose sixteen levels are unevenly spaced.
#pragma once

#include "core/block_layouts.h"
#include "core/blocks/sub_blocks.h"

namespace dca {
namespace {

/// Finds x[i] = d * kIQ4NLValues[q[i]] with little weighted squared error, for sixteen blocks of 32
/// values side by side: quantise with trial scales, solve for the d that suits those levels best,
/// keep the best trial.
class GridFit {
public:
    Lanes d;          // an exact half
    Lanes q[kBlock];  // indices of levels

    explicit GridFit(const SubBlocks<kBlock>& values) {
        d = as_half(best_scale(values));
        const Lanes inverse_scale = inverse(d);
        for (int i = 0; i < kBlock; ++i) q[i] = nearest_level(values.x[i] * inverse_scale).index;
    }

private:
    struct Level {
        Lanes index, value;
    };

    static Level nearest_level(Lanes x) {
        Level level{0.0f, float(kIQ4NLValues[0])};
        for (int k = 1; k < 16; ++k) {
            const float below = kIQ4NLValues[k - 1], above = kIQ4NLValues[k];
            const LaneMask reached = x > 0.5f * (below + above);
            level.index = select(reached, float(k), level.index);
            level.value = select(reached, above, level.value);
        }
        return level;
    }

    static Lanes best_scale(const SubBlocks<kBlock>& values) {
        Lanes peak = 0.0f;
        for (int i = 0; i < kBlock; ++i) peak = select(abs(values.x[i]) > abs(peak), values.x[i], peak);
        Lanes best = 0.0f, best_gain = 0.0f;
        for (int trial = 0; trial < kTrials; ++trial) {
            for (const int end : {kIQ4NLValues[0], kIQ4NLValues[15]}) {  // the peak may go to either end
                const float clipped = 0.8f + 0.4f * float(trial) / float(kTrials - 1);
                const Lanes inverse_scale = inverse(peak * (1.0f / (clipped * float(end))));
                Lanes vv = 0.0f, xv = 0.0f;
                for (int i = 0; i < kBlock; ++i) {
                    const Lanes value = nearest_level(values.x[i] * inverse_scale).value;
                    const Lanes wv = values.weight[i] * value;
                    vv += wv * value;
                    xv += wv * values.x[i];
                }
                const Lanes gain = xv * xv / vv;           // error saved against all zeros
                const LaneMask better = gain > best_gain;  // false for the NaN of all zeros
                best_gain = select(better, gain, best_gain);
                best = select(better, xv / vv, best);
            }
        }
        return best;
    }
};

}  // namespace
}  // namespace dca
