// The products of a stage by mma, where rows are few and planes of four bits: wgmma takes as long for 16 columns as for many, which
// is longer than the weights are on their way.
#pragma once

#include "cuda/linear/small_batch/sm90_ring.cuh"

namespace dca::cuda::few::sm90 {

/// The products of a stage that are a warp's: two warps that are neighbours share 32 rows, in two fragments that begin at rows[0] and
/// rows[1], and each has one of the two units of every lane there, so that what it reads of x serves twice. Added to the sums.
template <class F, class T>
__device__ __forceinline__ void multiply_units(uint32_t stage, [[maybe_unused]] uint32_t k, const uint32_t (&rows)[2], uint32_t apart,
                                               float (&sums)[2][8]) {
    using C = Config<F, 16>;
    using S = Step<F>;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, half = threadIdx.x / 32 % 2;
    Extras<F, 1> extras[2][2];
    Words low[2][2];
    PairTable<F, 16> pairs[2][2];  // of the next eight: on their way while this one is multiplied
    const uint32_t own_pairs = memory_begin() + lane * 4;
    uint32_t scales_at = stage + C::kScalesAt;
    if constexpr (S::kScaleRow < C::kScaleBox) scales_at += k * S::kScaleRow % C::kScaleBox;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint32_t row = rows[f] + apart * h;
            low[f][h] = ptx::load_shared<Words>(stage + wgmma_low_offset(row, 2 * t + half));
            extras[f][h].load_from(stage + C::kHighAt + row * S::kHighRow, scales_at + row * C::kScaleBox, 2 * t + half);
        }
    }
#pragma unroll
    for (int f = 0; f < 2; ++f) {
#pragma unroll
        for (int h = 0; h < 2; ++h) pairs[f][h].look_up(low[f][h].w[0], own_pairs);
    }
    const uint32_t x = stage + C::kXAt + mma_x_offset(t, g, 4 * half);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        uint32_t w[2][2][4];
#pragma unroll
        for (int f = 0; f < 2; ++f) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                pairs[f][h].template unpack<T>(low[f][h], extras[f][h], e, 0, w[f][h]);
                if (e < 3) pairs[f][h].look_up(low[f][h].w[(e + 1) % 4], own_pairs);
            }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const Words own_x = ptx::load_shared<Words>((x ^ e * 16) + n * 8 * 128);
#pragma unroll
            for (int s = 0; s < 2; ++s) {
#pragma unroll
                for (int f = 0; f < 2; ++f) {
                    const uint32_t a[4] = {w[f][0][2 * s], w[f][1][2 * s], w[f][0][2 * s + 1], w[f][1][2 * s + 1]};
                    ptx::mma_16x8x16<T>(reinterpret_cast<float (&)[4]>(sums[f][4 * n]), a, own_x.w[2 * s], own_x.w[2 * s + 1]);
                }
            }
        }
    }
}

/// Two warps that have summed half of the units each for two fragments: each gets the other's sums of its own fragment. They do it
/// where their rows' weights were, `at`, which both have read.
__device__ __forceinline__ void exchange_halves(uint32_t at, const float (&both)[2][8], float (&sums)[8]) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = warp % 2, barrier = 2 + warp / 2;
    ptx::named_sync(barrier, 64);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float other[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            other[n] = half == 0 ? both[1][4 * i + n] : both[0][4 * i + n];
            sums[4 * i + n] = half == 0 ? both[0][4 * i + n] : both[1][4 * i + n];
        }
        ptx::store_shared(at + ((2 * i + 1 - half) * 32 + lane) * 16, reinterpret_cast<const uint4&>(other));
    }
    ptx::named_sync(barrier, 64);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float4 more = ptx::load_shared<float4>(at + ((2 * i + half) * 32 + lane) * 16);
        sums[4 * i] += more.x;
        sums[4 * i + 1] += more.y;
        sums[4 * i + 2] += more.z;
        sums[4 * i + 3] += more.w;
    }
    ptx::fence_async_proxy();
}

}  // namespace dca::cuda::few::sm90
