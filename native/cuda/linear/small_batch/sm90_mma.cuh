// The products of a stage by mma, where rows are few and planes of four bits: on an H100 16 rows of 28672 x 4096 in IQ4_XS take 29.3 us
// so and 39.5 by wgmma, Q4_K 31.9 and 35.2, with the same bits. A warp has 32 rows of weights, so that what it reads of x serves
// twice; x is as the copy engine brings it.
#pragma once

#include "cuda/linear/small_batch/sm90_ring.cuh"

namespace dca::cuda::few::sm90 {

/// What a lane holds of a stage while it is multiplied: of the rows g and g + 8 of its warp's fragments.
template <class F, class T, int kN>
class MmaStage {
public:
    using C = Config<F, kN>;
    using S = Step<F>;
    static constexpr int kFragments = C::kFragments, kEights = 8, kEightsOfX = kN / 8;

    /// `rows`: where the fragments' rows g are in the stage; rows g + 8 are `apart` further on.
    __device__ __forceinline__ void multiply(uint32_t stage, [[maybe_unused]] uint32_t k, const uint32_t (&rows)[kFragments],
                                             uint32_t apart, float (&sums)[kFragments][kN / 2]) {
        const uint32_t lane = threadIdx.x % 32, t = lane % 4;
        const uint32_t own_pairs = memory_begin() + lane * 4;
        const uint32_t x = stage + C::kXAt + mma_x_offset(kN, t, lane / 4, 0);
        uint32_t scales_at = stage + C::kScalesAt;
        if constexpr (S::kScaleRow < C::kScaleBox) scales_at += k * S::kScaleRow % C::kScaleBox;
        Extras<F> extras[kFragments][2];
        Words low[kFragments][2][2];
#pragma unroll
        for (int q = 0; q < 2; ++q) {
#pragma unroll
            for (int f = 0; f < kFragments; ++f) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const uint32_t row = rows[f] + apart * h;
                    low[f][h][q] = ptx::load_shared<Words>(stage + wgmma_low_offset(row, 2 * t + q));
                    if (q == 0) extras[f][h].load_from(stage + C::kHighAt + row * S::kHighRow, scales_at + row * C::kScaleBox, t);
                }
            }
        }
        PairTable<F, kN> pairs[kFragments][2];  // of the next eight: on their way while this one is multiplied
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
#pragma unroll
            for (int h = 0; h < 2; ++h) pairs[f][h].look_up(low[f][h][0].w[0], own_pairs);
        }
        Words next_x[kEightsOfX];
#pragma unroll
        for (int n = 0; n < kEightsOfX; ++n) next_x[n] = ptx::load_shared<Words>(x + n * 8 * 128);
#pragma unroll
        for (int i = 0; i < kEights; ++i) {
            const int q = i / 4, e = i % 4, next = (i + 1) % kEights;
            uint32_t w[kFragments][2][4];
#pragma unroll
            for (int f = 0; f < kFragments; ++f) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    pairs[f][h].template unpack<T>(low[f][h][q], extras[f][h], e, q, w[f][h]);
                    if (i + 1 < kEights) pairs[f][h].look_up(low[f][h][next / 4].w[next % 4], own_pairs);
                }
            }
            Words own_x[kEightsOfX];
#pragma unroll
            for (int n = 0; n < kEightsOfX; ++n) own_x[n] = next_x[n];
#pragma unroll
            for (int n = 0; n < kEightsOfX; ++n)
                if (i + 1 < kEights) next_x[n] = ptx::load_shared<Words>((x ^ next * 16) + n * 8 * 128);
#pragma unroll
            for (int s = 0; s < 2; ++s) {
#pragma unroll
                for (int n = 0; n < kEightsOfX; ++n) {
#pragma unroll
                    for (int f = 0; f < kFragments; ++f) {
                        const uint32_t a[4] = {w[f][0][2 * s], w[f][1][2 * s], w[f][0][2 * s + 1], w[f][1][2 * s + 1]};
                        ptx::mma_16x8x16<T>(reinterpret_cast<float (&)[4]>(sums[f][4 * n]), a, own_x[n].w[2 * s], own_x[n].w[2 * s + 1]);
                    }
                }
            }
        }
    }
};

}  // namespace dca::cuda::few::sm90
