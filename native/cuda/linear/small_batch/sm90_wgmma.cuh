// The products of a stage by wgmma: weights that are unpacked in registers are the left operand, x is read from shared memory.
#pragma once

#include "cuda/device/wgmma.cuh"
#include "cuda/linear/small_batch/sm90_ring.cuh"

namespace dca::cuda::few::sm90 {

/// Issues the products of a stage, this thread's rows `row` and row + apart, added to the sums; they have ended when this returns.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply_stage(uint32_t stage, [[maybe_unused]] uint32_t k, uint32_t row, uint32_t apart,
                                               float (&sums)[kN / 2]) {
    using C = Config<F, kN>;
    using S = Step<F>;
    using Product = wgmma::Product<kN, T>;
    constexpr int kEights = static_cast<int>(S::kEights);
    const uint32_t t = threadIdx.x % 4;
    const uint64_t x = wgmma::descriptor<64>(stage + C::kXAt, 16);

    Extras<F> extras[2];
    uint32_t scales_at = stage + C::kScalesAt;
    if constexpr (S::kScaleRow < C::kScaleBox) scales_at += k * S::kScaleRow % C::kScaleBox;
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t own = row + apart * h;
        extras[h].load_from(stage + C::kHighAt + own * S::kHighRow, scales_at + own * C::kScaleBox, t);
    }
    Words low[2];
    const auto load_low = [&](int q) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) low[h] = ptx::load_shared<Words>(stage + wgmma_low_offset(row + apart * h, 2 * t + q));
    };
    load_low(0);
    uint32_t w[2][2][4];  // of this eight and of the one before, whose products are under way
    wgmma::pin(sums);
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i) {
        const int q = i / kEights, e = i % kEights, u = S::kLaneUnits == 2 ? q : 0;
        uint32_t unpacked[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) unpack_eight<F, T>(low[h], extras[h], e, u, unpacked[h]);
        if (e + 1 == kEights && q == 0) load_low(1);
        if (i >= 2) wgmma::wait<1>();
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            uint32_t (&a)[4] = w[i % 2][s];
            a[0] = unpacked[0][2 * s];
            a[1] = unpacked[1][2 * s];
            a[2] = unpacked[0][2 * s + 1];
            a[3] = unpacked[1][2 * s + 1];
            wgmma::pin(a);
        }
        wgmma::fence();
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const int deep = 2 * i + s;  // which 16 columns
            const uint64_t tile = wgmma::advance(x, deep / 4 * kN * 128 + deep % 4 * 32);
            Product::template registers<false>(sums, w[i % 2][s], tile, 1);
        }
        wgmma::commit();
    }
    wgmma::wait<0>();
    wgmma::pin(sums);
}

}  // namespace dca::cuda::few::sm90
