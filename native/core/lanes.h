// Sixteen floats computed side by side, on whatever vector registers the translation unit is
// compiled for. Code over Lanes is written once and gives the same bits on every machine.
//
// Internal linkage on purpose: each translation unit compiles its own copy for its instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace dca {
namespace {

#if defined(__AVX512F__)
inline constexpr int kNativeLanes = 16;
#elif defined(__AVX__)
inline constexpr int kNativeLanes = 8;
#else
inline constexpr int kNativeLanes = 4;
#endif

inline constexpr int kLanes = 16;
inline constexpr int kLaneParts = kLanes / kNativeLanes;

using NativeFloats [[gnu::vector_size(kNativeLanes * sizeof(float))]] = float;
using NativeInts [[gnu::vector_size(kNativeLanes * sizeof(int32_t))]] = int32_t;

// The compiler turns a vector a < b ? a : b into compare and blend; x86 has it in one instruction.
// (The masked forms are the same instruction; gcc 12 warns of its own header's unmasked ones.)
#if defined(__AVX512F__)
[[gnu::always_inline]] inline NativeFloats native_min(NativeFloats a, NativeFloats b) { return _mm512_maskz_min_ps(0xffff, a, b); }
[[gnu::always_inline]] inline NativeFloats native_max(NativeFloats a, NativeFloats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX__)
[[gnu::always_inline]] inline NativeFloats native_min(NativeFloats a, NativeFloats b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline NativeFloats native_max(NativeFloats a, NativeFloats b) { return _mm256_max_ps(a, b); }
#elif defined(__SSE2__)
[[gnu::always_inline]] inline NativeFloats native_min(NativeFloats a, NativeFloats b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline NativeFloats native_max(NativeFloats a, NativeFloats b) { return _mm_max_ps(a, b); }
#else
[[gnu::always_inline]] inline NativeFloats native_min(NativeFloats a, NativeFloats b) { return a < b ? a : b; }
[[gnu::always_inline]] inline NativeFloats native_max(NativeFloats a, NativeFloats b) { return a > b ? a : b; }
#endif

/// One truth value a lane: all bits or none.
struct LaneMask {
    NativeInts part[kLaneParts];
};

struct Lanes {
    NativeFloats part[kLaneParts];

    Lanes() = default;
    [[gnu::always_inline]] Lanes(float value) {
        for (auto& p : part) p = value - NativeFloats{};
    }
    [[gnu::always_inline]] static Lanes load(const float* from) {
        Lanes lanes;
        for (int p = 0; p < kLaneParts; ++p) std::memcpy(&lanes.part[p], from + p * kNativeLanes, sizeof(NativeFloats));
        return lanes;
    }
    [[gnu::always_inline]] float operator[](int lane) const { return part[lane / kNativeLanes][lane % kNativeLanes]; }
    [[gnu::always_inline]] void store(float* to) const {
        for (int p = 0; p < kLaneParts; ++p) std::memcpy(to + p * kNativeLanes, &part[p], sizeof(NativeFloats));
    }
};

template <class Op>
[[gnu::always_inline]] inline Lanes each(Lanes a, Lanes b, Op op) {
    Lanes out;
    for (int p = 0; p < kLaneParts; ++p) out.part[p] = op(a.part[p], b.part[p]);
    return out;
}

[[gnu::always_inline]] inline Lanes operator+(Lanes a, Lanes b) { return each(a, b, [](auto x, auto y) { return x + y; }); }
[[gnu::always_inline]] inline Lanes operator-(Lanes a, Lanes b) { return each(a, b, [](auto x, auto y) { return x - y; }); }
[[gnu::always_inline]] inline Lanes operator*(Lanes a, Lanes b) { return each(a, b, [](auto x, auto y) { return x * y; }); }
[[gnu::always_inline]] inline Lanes operator/(Lanes a, Lanes b) { return each(a, b, [](auto x, auto y) { return x / y; }); }
[[gnu::always_inline]] inline Lanes& operator+=(Lanes& a, Lanes b) { return a = a + b; }
[[gnu::always_inline]] inline Lanes min(Lanes a, Lanes b) { return each(a, b, native_min); }
[[gnu::always_inline]] inline Lanes max(Lanes a, Lanes b) { return each(a, b, native_max); }

[[gnu::always_inline]] inline LaneMask operator>(Lanes a, Lanes b) {
    LaneMask mask;
    for (int p = 0; p < kLaneParts; ++p) mask.part[p] = a.part[p] > b.part[p];
    return mask;
}
[[gnu::always_inline]] inline LaneMask operator<(Lanes a, Lanes b) { return b > a; }

[[gnu::always_inline]] inline LaneMask both(LaneMask a, LaneMask b) {
    for (int p = 0; p < kLaneParts; ++p) a.part[p] &= b.part[p];
    return a;
}

[[gnu::always_inline]] inline Lanes select(LaneMask mask, Lanes yes, Lanes no) {
    Lanes out;
    for (int p = 0; p < kLaneParts; ++p) out.part[p] = mask.part[p] ? yes.part[p] : no.part[p];
    return out;
}

/// Correctly rounded, as every instruction set has it.
inline Lanes sqrt(Lanes a) {
    float values[kLanes];
    a.store(values);
    for (float& value : values) value = std::sqrt(value);
    return Lanes::load(values);
}

[[gnu::always_inline]] inline Lanes abs(Lanes a) { return max(a, 0.0f - a); }

/// To the nearest integer, ties to even, for magnitudes below 2^22: there the sum has no fraction bits.
[[gnu::always_inline]] inline Lanes nearest(Lanes a) {
    constexpr float kShift = 0x1.8p23f;
    return (a + kShift) - kShift;
}

/// Towards zero, for magnitudes below 2^31.
[[gnu::always_inline]] inline Lanes truncate(Lanes a) {
    for (auto& p : a.part) p = __builtin_convertvector(__builtin_convertvector(p, NativeInts), NativeFloats);
    return a;
}

/// Lanes that hold integers as sixteen bytes, each modulo 256.
[[gnu::always_inline]] inline void store_bytes(Lanes a, uint8_t* to) {
    using NativeBytes [[gnu::vector_size(kNativeLanes)]] = int8_t;
    if constexpr (kLaneParts == 1) {
        const NativeBytes bytes = __builtin_convertvector(__builtin_convertvector(a.part[0], NativeInts), NativeBytes);
        std::memcpy(to, &bytes, sizeof(bytes));
    } else {  // gcc narrows a loop well, but a vector element by element
        int32_t integers[kLanes];
        for (int p = 0; p < kLaneParts; ++p) {
            const NativeInts part = __builtin_convertvector(a.part[p], NativeInts);
            std::memcpy(integers + p * kNativeLanes, &part, sizeof(part));
        }
        for (int i = 0; i < kLanes; ++i) to[i] = uint8_t(integers[i]);
    }
}

[[gnu::always_inline]] inline Lanes clamp(Lanes a, float low, float high) { return min(max(a, low), high); }

}  // namespace
}  // namespace dca
