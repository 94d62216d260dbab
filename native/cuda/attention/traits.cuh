// The arithmetic of attention's traits (attention.h): capped logits and sinks.
#pragma once

#include "cuda/attention/variants.h"
#include "cuda/device/ptx.cuh"

namespace dca::cuda {

/// cap tanh(scale logit / cap) log2(e). tanh x = 1 - 2 / (e^2x + 1): to an ulp or two of 1, where tanh.approx has eleven bits.
__device__ __forceinline__ float cap_logit(float logit, const LogitScale& scale) {
    const float power = ptx::exp2(logit * (scale.into_tanh * (2 * kLog2E)));
    return scale.from_tanh - __fdividef(2 * scale.from_tanh, power + 1.0f);
}

/// Before they are masked: minus infinity would become a number.
template <int kCount>
__device__ __forceinline__ void cap_logits(float (&s)[kCount], const LogitScale& scale) {
#pragma unroll
    for (float& logit : s) logit = cap_logit(logit, scale);
}

/// What a head's sink adds to the sum of a softmax whose largest logit is `maximum`, before scale_log2; 0 where there is none.
__device__ __forceinline__ float sink_share(const AttentionTraits& traits, uint32_t head, float maximum, float scale_log2) {
    return traits.sinks == nullptr ? 0.0f : ptx::exp2(__ldg(traits.sinks + head) * kLog2E - maximum * scale_log2);
}

}  // namespace dca::cuda
