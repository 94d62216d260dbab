// The online softmax over tiles of logits that lie in tensor core accumulators: this thread
// holds two rows, acc[4 j + 2 half + parity] being column 8 j + 2 (lane % 4) + parity of row
// `half`; the four lanes of a quad share both rows.
#pragma once

#include "cuda/device/halves.cuh"
#include "cuda/device/ptx.cuh"

namespace dca::cuda {

/// Start value of a running maximum: below any logit, yet finite, so that rows whose first
/// tile is masked entirely give exp(-inf) = 0 and not NaN.
constexpr float kNoMaximum = -1e30f;

struct OnlineSoftmax {
    float maximum[2] = {kNoMaximum, kNoMaximum};
    float sum[2] = {0.0f, 0.0f};  // over this thread's columns

    /// Takes in one tile: s becomes 2^((s - maximum) scale_log2). What was accumulated before
    /// must be multiplied by `keep`.
    template <int kCount>
    __device__ __forceinline__ void step(float (&s)[kCount], float scale_log2, float (&keep)[2]) {
        // Four chains each for maxima and sums (rows and parities), two would wait for themselves.
        float highest[4] = {s[0], s[1], s[2], s[3]}, total[4] = {}, offset[2];
#pragma unroll
        for (int n = 4; n < kCount; ++n) highest[n % 4] = fmaxf(highest[n % 4], s[n]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float raised = fmaxf(maximum[half], fmaxf(highest[2 * half], highest[2 * half + 1]));
            raised = fmaxf(raised, __shfl_xor_sync(~0u, raised, 1));
            raised = fmaxf(raised, __shfl_xor_sync(~0u, raised, 2));
            keep[half] = ptx::exp2((maximum[half] - raised) * scale_log2);
            maximum[half] = raised;
            offset[half] = raised * scale_log2;
        }
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            s[n] = ptx::exp2(s[n] * scale_log2 - offset[n / 2 % 2]);
            total[n % 4] += s[n];
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) sum[half] = sum[half] * keep[half] + (total[2 * half] + total[2 * half + 1]);
    }

    /// The sum of a whole row.
    __device__ __forceinline__ float row_sum(int half) const {
        float total = sum[half];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        return total;
    }

    /// One over the sums of whole rows.
    __device__ __forceinline__ void inverse_sums(float (&inverse)[2]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) inverse[half] = 1.0f / row_sum(half);
    }

    /// The same of sums with more(maximum) added to each.
    template <class More>
    __device__ __forceinline__ void inverse_sums(float (&inverse)[2], More&& more) const {
        inverse_sums(inverse);
#pragma unroll
        for (int half = 0; half < 2; ++half) inverse[half] /= 1.0f + more(maximum[half]) * inverse[half];
    }
};

/// Multiplies what was accumulated by `keep`. Most tiles raise no maximum in a whole warp: then there is
/// nothing to do, exactly.
template <int kCount>
__device__ __forceinline__ void rescale(float (&acc)[kCount], const float (&keep)[2]) {
    if (!__any_sync(~0u, keep[0] != 1.0f || keep[1] != 1.0f)) return;
#pragma unroll
    for (int n = 0; n < kCount; ++n) acc[n] *= keep[n / 2 % 2];
}

/// Accumulators of (rows, 16 k) as the first operands of k products, 4 registers each: the two
/// layouts agree.
template <class T, int kCount>
__device__ __forceinline__ void to_operands(const float (&acc)[kCount], uint32_t (&operands)[kCount / 2]) {
#pragma unroll
    for (int n = 0; n < kCount / 2; ++n) operands[n] = pack<T>(acc[2 * n], acc[2 * n + 1]);
}

}  // namespace dca::cuda
