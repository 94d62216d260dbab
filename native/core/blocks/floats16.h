// Sixteen floats computed side by side, in as many vectors (core/blocks/simd.h) as they fill. Code over
// Floats16 is written once and gives the same bits on every machine.
//
// Internal linkage on purpose: each translation unit compiles its own copy for its instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/blocks/simd.h"

namespace dca {
namespace {

/// One truth value a float: all bits or none.
struct Mask16 {
    I part[16 / kVectorWidth];
};

struct Floats16 {
    static constexpr int size = 16;
    static constexpr int parts = size / kVectorWidth;

    F part[parts];

    Floats16() = default;
    [[gnu::always_inline]] Floats16(float value) {
        for (F& p : part) p = splat(value);
    }
    [[gnu::always_inline]] static Floats16 load(const float* from) {
        Floats16 floats;
        for (int p = 0; p < parts; ++p) floats.part[p] = dca::load(from + p * kVectorWidth);
        return floats;
    }
    [[gnu::always_inline]] float operator[](int i) const { return part[i / kVectorWidth][i % kVectorWidth]; }
    [[gnu::always_inline]] void store(float* to) const {
        for (int p = 0; p < parts; ++p) dca::store(to + p * kVectorWidth, part[p]);
    }
};

template <class Op>
[[gnu::always_inline]] inline Floats16 each(Floats16 a, Floats16 b, Op op) {
    Floats16 out;
    for (int p = 0; p < Floats16::parts; ++p) out.part[p] = op(a.part[p], b.part[p]);
    return out;
}

[[gnu::always_inline]] inline Floats16 operator+(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return x + y; });
}
[[gnu::always_inline]] inline Floats16 operator-(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return x - y; });
}
[[gnu::always_inline]] inline Floats16 operator*(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return x * y; });
}
[[gnu::always_inline]] inline Floats16 operator/(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return x / y; });
}
[[gnu::always_inline]] inline Floats16& operator+=(Floats16& a, Floats16 b) { return a = a + b; }
[[gnu::always_inline]] inline Floats16 minimum(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return minimum(x, y); });
}
[[gnu::always_inline]] inline Floats16 maximum(Floats16 a, Floats16 b) {
    return each(a, b, [](F x, F y) { return maximum(x, y); });
}

[[gnu::always_inline]] inline Mask16 operator>(Floats16 a, Floats16 b) {
    Mask16 mask;
    for (int p = 0; p < Floats16::parts; ++p) mask.part[p] = a.part[p] > b.part[p];
    return mask;
}
[[gnu::always_inline]] inline Mask16 operator<(Floats16 a, Floats16 b) { return b > a; }

[[gnu::always_inline]] inline Mask16 both(Mask16 a, Mask16 b) {
    for (int p = 0; p < Floats16::parts; ++p) a.part[p] &= b.part[p];
    return a;
}

[[gnu::always_inline]] inline Floats16 select(Mask16 mask, Floats16 yes, Floats16 no) {
    Floats16 out;
    for (int p = 0; p < Floats16::parts; ++p) out.part[p] = mask.part[p] ? yes.part[p] : no.part[p];
    return out;
}

/// Correctly rounded, as every instruction set has it.
inline Floats16 sqrt(Floats16 a) {
    float values[Floats16::size];
    a.store(values);
    for (float& value : values) value = std::sqrt(value);
    return Floats16::load(values);
}

[[gnu::always_inline]] inline Floats16 abs(Floats16 a) { return maximum(a, 0.0f - a); }

/// To the nearest integer, ties to even, for magnitudes below 2^22: there the sum has no fraction bits.
[[gnu::always_inline]] inline Floats16 nearest(Floats16 a) {
    constexpr float kShift = 0x1.8p23f;
    return (a + kShift) - kShift;
}

/// Towards zero, for magnitudes below 2^31.
[[gnu::always_inline]] inline Floats16 truncate(Floats16 a) {
    for (F& p : a.part) p = __builtin_convertvector(__builtin_convertvector(p, I), F);
    return a;
}

/// Floats that hold integers as sixteen bytes, each modulo 256.
[[gnu::always_inline]] inline void store_bytes(Floats16 a, uint8_t* to) {
    typedef int8_t Bytes __attribute__((vector_size(kVectorWidth)));
    if constexpr (Floats16::parts == 1) {
        const Bytes bytes = __builtin_convertvector(__builtin_convertvector(a.part[0], I), Bytes);
        std::memcpy(to, &bytes, sizeof(bytes));
    } else {  // gcc narrows a loop well, but a vector element by element
        int32_t integers[Floats16::size];
        for (int p = 0; p < Floats16::parts; ++p) {
            const I part = __builtin_convertvector(a.part[p], I);
            std::memcpy(integers + p * kVectorWidth, &part, sizeof(part));
        }
        for (int i = 0; i < Floats16::size; ++i) to[i] = static_cast<uint8_t>(integers[i]);
    }
}

[[gnu::always_inline]] inline Floats16 clamp(Floats16 a, float low, float high) { return minimum(maximum(a, low), high); }

}  // namespace
}  // namespace dca
