// Powers of two over vectors, for softmax and sigmoid.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include "core/blocks/simd.h"

namespace dca::cpu {
namespace {

/// 2^r for |r| <= 1/2: the Taylor polynomial, its 7th-order remainder is below 2e-8.
[[gnu::always_inline]] inline F exp2_of_fraction(F r) {
    F p = splat(1.5403530e-4f);
    p = p * r + splat(1.3333558e-3f);
    p = p * r + splat(9.6181291e-3f);
    p = p * r + splat(5.5504109e-2f);
    p = p * r + splat(2.4022651e-1f);
    p = p * r + splat(6.9314718e-1f);
    return p * r + splat(1.0f);
}

/// 2^x to about 2e-7 relative, for x <= 127; 0 below -126, or as far down as f32 reaches. (Cody and Waite: the
/// integer part goes to the exponent.)
[[gnu::always_inline]] inline F exp2_of(F x) {
#if defined(__AVX512F__)
    const F clamped = maximum(x, splat(-160.0f));  // of minus infinity there is no fraction
    const auto whole = (F)_mm512_maskz_roundscale_ps(0xffff, (__m512)clamped, _MM_FROUND_TO_NEAREST_INT);
    return (F)_mm512_maskz_scalef_ps(0xffff, (__m512)exp2_of_fraction(clamped - whole), (__m512)whole);
#else
    const F magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
    const F low = splat(-126.0f);
    const F clamped = maximum(x, low);
    const F shifted = clamped + magic;
    const F p = exp2_of_fraction(clamped - (shifted - magic));
    I bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    I mantissa;
    __builtin_memcpy(&mantissa, &p, sizeof mantissa);
    mantissa += bits << 23;
    F result;
    __builtin_memcpy(&result, &mantissa, sizeof result);
    return x < low ? F{} : result;
#endif
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kMinusInfinity = -__builtin_inff();

/// cap · tanh(x / cap), also where both come times log2(e). Its error is about 1e-7 of the cap.
[[gnu::always_inline]] inline F soft_cap(F x, float cap) {
    // tanh(u) = 1 - 2 / (1 + e^2u), in powers of two.
    const F exponent = x * splat(2.0f * kLog2E / cap);
    const F bounded = exponent > splat(126.0f) ? splat(126.0f) : exponent;
    return splat(cap) - splat(2.0f * cap) / (splat(1.0f) + exp2_of(bounded));
}

}  // namespace
}  // namespace dca::cpu
