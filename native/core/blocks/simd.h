// Vectors of the widest kind a translation unit is compiled for, in the compiler's vector types:
// the same source serves every instruction set.
//
// Internal linkage on purpose: each translation unit compiles its own copy for its instruction set.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/blocks/half.h"

namespace dca {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kVectorWidth = kVectorBytes / 4;  // floats in a vector

typedef float F __attribute__((vector_size(kVectorBytes)));
typedef int32_t I __attribute__((vector_size(kVectorBytes)));
typedef uint16_t U16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t U32 __attribute__((vector_size(kVectorBytes)));

[[gnu::always_inline]] inline F load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
[[gnu::always_inline]] inline void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
[[gnu::always_inline]] inline F splat(float x) { return x - F{}; }

// a < b ? a : b and a > b ? a : b, which the compiler turns into compare and blend; x86 has them in one instruction.
// (The masked forms are the same instruction; gcc 12 warns of its own header's unmasked ones.)
#if defined(__AVX512F__)
[[gnu::always_inline]] inline F minimum(F a, F b) { return _mm512_maskz_min_ps(0xffff, a, b); }
[[gnu::always_inline]] inline F maximum(F a, F b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX2__)
[[gnu::always_inline]] inline F minimum(F a, F b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline F maximum(F a, F b) { return _mm256_max_ps(a, b); }
#elif defined(__SSE2__)
[[gnu::always_inline]] inline F minimum(F a, F b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline F maximum(F a, F b) { return _mm_max_ps(a, b); }
#else
[[gnu::always_inline]] inline F minimum(F a, F b) { return a < b ? a : b; }
[[gnu::always_inline]] inline F maximum(F a, F b) { return a > b ? a : b; }
#endif

/// The sum of a vector's values, by halves: a chain of log2(kVectorWidth) additions, not of kVectorWidth.
[[gnu::always_inline]] inline float sum_of(F v) {
    typedef float F4 __attribute__((vector_size(16)));
    F4 quarter[kVectorWidth / 4];
    __builtin_memcpy(quarter, &v, sizeof v);
#pragma GCC unroll 2
    for (int half = kVectorWidth / 8; half > 0; half /= 2) {
#pragma GCC unroll 2
        for (int i = 0; i < half; ++i) quarter[i] += quarter[i + half];
    }
    const F4 four = quarter[0];
    const F4 two = four + __builtin_shufflevector(four, four, 2, 3, 0, 1);
    return two[0] + two[1];
}

[[gnu::always_inline]] inline F load_bf16(const uint16_t* p) {
    U16 v;
    __builtin_memcpy(&v, p, sizeof v);
    const U32 bits = __builtin_convertvector(v, U32) << 16;
    F f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

// The compiler takes conversions of byte vectors to integers apart, value by value: these are by hand.
#if defined(__AVX512F__)
[[gnu::always_inline]] inline I load_integers(const int8_t* p) {
    return (I)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline I load_integers(const uint8_t* p) {
    return (I)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline F load_f16(const uint16_t* p) {
    return (F)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline void store_f16(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__AVX2__)
[[gnu::always_inline]] inline I load_integers(const int8_t* p) {
    return (I)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline I load_integers(const uint8_t* p) {
    return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline F load_f16(const uint16_t* p) {
    return (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline void store_f16(uint16_t* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
/// Four bytes in the lower half of a vector.
[[gnu::always_inline]] inline uint8x8_t load_four_bytes(const void* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}
[[gnu::always_inline]] inline I load_integers(const int8_t* p) {
    return (I)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four_bytes(p)))));
}
[[gnu::always_inline]] inline I load_integers(const uint8_t* p) { return (I)vmovl_u16(vget_low_u16(vmovl_u8(load_four_bytes(p)))); }
[[gnu::always_inline]] inline F load_f16(const uint16_t* p) { return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
[[gnu::always_inline]] inline void store_f16(uint16_t* p, F v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v))); }
#else
inline I load_integers(const int8_t* p) {
    I v;
    for (int i = 0; i < kVectorWidth; ++i) v[i] = p[i];
    return v;
}
inline I load_integers(const uint8_t* p) {
    I v;
    for (int i = 0; i < kVectorWidth; ++i) v[i] = p[i];
    return v;
}
inline F load_f16(const uint16_t* p) {
    F v;
    for (int i = 0; i < kVectorWidth; ++i) v[i] = half_to_float(p[i]);
    return v;
}
inline void store_f16(uint16_t* p, F v) {
    for (int i = 0; i < kVectorWidth; ++i) p[i] = float_to_half(v[i]);
}
#endif

[[gnu::always_inline]] inline F load_i8(const int8_t* p) { return __builtin_convertvector(load_integers(p), F); }

}  // namespace
}  // namespace dca
