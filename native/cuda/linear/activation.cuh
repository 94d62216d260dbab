// What a feed-forward's gate does to its up (core/hparams.h).
#pragma once

#include "core/hparams.h"

namespace dca::cuda {

__device__ __forceinline__ float gated(Activation activation, float gate, float up) {
    switch (activation) {
        case Activation::Gelu: {
            // x (1 + tanh u) / 2 is x / (1 + e^-2u); u = sqrt(2 / pi) (x + 0.044715 x^3)
            const float twice = 1.5957691216057308f * (gate + 0.044715f * gate * gate * gate);
            return gate / (1.0f + __expf(-twice)) * up;
        }
        case Activation::ClampedSwiglu: {
            const float g = fminf(gate, 7.0f), u = fminf(fmaxf(up, -7.0f), 7.0f);
            return g / (1.0f + __expf(-1.702f * g)) * (u + 1.0f);
        }
        case Activation::Silu: break;
    }
    return gate / (1.0f + __expf(-gate)) * up;
}

}  // namespace dca::cuda
