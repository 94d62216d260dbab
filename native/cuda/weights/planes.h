// How weights lie in device memory, and the arithmetic on them; host and device.
//
// GGUF's blocks of 18 ... 210 bytes are unaligned. Here a quantised matrix is cut into units of
// 32 consecutive weights of a row, and every unit's parts lie in planes of their own, row after row:
//   low     4 or 8 bits a weight, 16 or 32 bytes a unit
//   high    0, 1 or 2 further bits, 0, 4 or 8 bytes a unit
//   scales  f16 per group of 16 or 32 weights, or pairs (scale, minimum), or f16 of 128 times the scale where levels reach to
//           127 and scales are small, or a bf16 that is a power of two
// A weight is scale * (q - offset), or scale * q + minimum, or scale * level[q]. Formats that do not look like this in
// the file become one that does; a product of two scales is rounded to f16 then (2^-12 relative).
//
// In the high and the scale planes a row is followed by zeros up to a multiple of four units.
//
// Four-bit units: byte k of low word j holds q[4j + k] in its low and q[16 + 4j + k] in its high
// nibble; where codes are levels of a table, nibble i of low word j holds q[8j + i], in the order in which they are looked up.
// One high bit: bit 2j + n of byte k, n = 0 for the low nibble and 1 for the high one.
// Two high bits: bits 2 (2 (j % 2) + n) and up of byte k of high word j / 2.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/blocks/half.h"
#include "core/positions/host_device.h"
#include "cuda/weights/levels.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif
#if defined(__CUDA_ARCH__)
#define DCA_UNROLL _Pragma("unroll")
#else
#define DCA_UNROLL
#endif

namespace dca::cuda {

enum class WeightFormat : int32_t { F16, BF16, Q8, Q4, Q4M, Q5, Q5M, Q6, Q3, Q2M, IQ4, FP4 };

/// A matrix in device memory; y = W x. F16 and BF16 use `low` alone, row-major.
struct Matrix {
    WeightFormat format = WeightFormat::F16;
    uint32_t rows = 0, cols = 0;
    void* low = nullptr;
    void* high = nullptr;
    void* scales = nullptr;
};

constexpr int kUnit = 32;

/// Units of a row in the high and scale planes, where rows start at multiples of four so that four can be copied at a time.
constexpr DCA_HOST_DEVICE uint32_t padded_units(uint32_t cols) { return (cols / kUnit + 3) / 4 * 4; }

/// What the scales of a group are: one f16, with a minimum, one of kFineSteps times the scale, one bf16.
enum class Scales { One, Minimum, Fine, Power };
constexpr float kFineSteps = 128.0f;

template <WeightFormat kFormat_, int kLowBits_, int kHighBits_, int kGroup_, int kOffset_, Scales kScales_,
          Levels kLevels_ = Levels::Linear>
struct Planes {
    static constexpr WeightFormat kFormat = kFormat_;
    static constexpr int kLowBits = kLowBits_, kHighBits = kHighBits_, kOffset = kOffset_;
    static constexpr Scales kScales = kScales_;
    static constexpr bool kMinimum = kScales == Scales::Minimum;
    static constexpr Levels kLevels = kLevels_;
    static constexpr bool kTable = kLevels != Levels::Linear;
    static constexpr int kGroups = kUnit / kGroup_;                     // of a unit
    static constexpr int kLowWords = kLowBits, kHighWords = kHighBits;  // 32-bit words of a unit
    static constexpr int kGroupHalves = kMinimum ? 2 : 1;
    static constexpr int kScaleHalves = kGroups * kGroupHalves;
};

using PlanesQ8 = Planes<WeightFormat::Q8, 8, 0, 32, 0, Scales::One>;
using PlanesQ4 = Planes<WeightFormat::Q4, 4, 0, 32, 8, Scales::One>;
using PlanesQ4M = Planes<WeightFormat::Q4M, 4, 0, 32, 0, Scales::Minimum>;
using PlanesQ5 = Planes<WeightFormat::Q5, 4, 1, 32, 16, Scales::One>;
using PlanesQ5M = Planes<WeightFormat::Q5M, 4, 1, 32, 0, Scales::Minimum>;
using PlanesQ6 = Planes<WeightFormat::Q6, 4, 2, 16, 32, Scales::One>;
using PlanesQ3 = Planes<WeightFormat::Q3, 4, 0, 16, 4, Scales::One>;
using PlanesQ2M = Planes<WeightFormat::Q2M, 4, 0, 16, 0, Scales::Minimum>;
using PlanesIQ4 = Planes<WeightFormat::IQ4, 4, 0, 32, 0, Scales::Fine, Levels::IQ4>;
using PlanesFP4 = Planes<WeightFormat::FP4, 4, 0, 32, 0, Scales::Power, Levels::FP4>;

/// Calls visit(P{}) with the Planes of a quantised format; false for F16 and BF16.
template <class Visit>
bool visit_planes(WeightFormat format, Visit&& visit) {
    switch (format) {
        case WeightFormat::Q8: visit(PlanesQ8{}); return true;
        case WeightFormat::Q4: visit(PlanesQ4{}); return true;
        case WeightFormat::Q4M: visit(PlanesQ4M{}); return true;
        case WeightFormat::Q5: visit(PlanesQ5{}); return true;
        case WeightFormat::Q5M: visit(PlanesQ5M{}); return true;
        case WeightFormat::Q6: visit(PlanesQ6{}); return true;
        case WeightFormat::Q3: visit(PlanesQ3{}); return true;
        case WeightFormat::Q2M: visit(PlanesQ2M{}); return true;
        case WeightFormat::IQ4: visit(PlanesIQ4{}); return true;
        case WeightFormat::FP4: visit(PlanesFP4{}); return true;
        case WeightFormat::F16:
        case WeightFormat::BF16: break;
    }
    return false;
}

/// Device bytes of a matrix's planes.
struct PlaneBytes {
    uint64_t low, high, scales;
};

inline PlaneBytes plane_bytes(WeightFormat format, uint64_t rows, uint32_t cols) {
    PlaneBytes bytes{2 * rows * cols, 0, 0};
    visit_planes(format, [&](auto planes) {
        using P = decltype(planes);
        const uint64_t units = rows * (cols / kUnit), padded = rows * padded_units(cols);
        bytes = {units * P::kLowWords * 4, padded * P::kHighWords * 4, padded * P::kScaleHalves * 2};
    });
    return bytes;
}

/// The matrix of expert `index`, where `first` is that of expert 0: all have one shape and lie one behind the other in
/// every plane.
inline Matrix expert_matrix(const Matrix& first, uint32_t index) {
    const PlaneBytes apart = plane_bytes(first.format, first.rows, first.cols);
    const auto behind = [&](void* plane, uint64_t bytes) -> void* {
        return plane == nullptr ? nullptr : static_cast<uint8_t*>(plane) + index * bytes;
    };
    return {first.format,
            first.rows,
            first.cols,
            behind(first.low, apart.low),
            behind(first.high, apart.high),
            behind(first.scales, apart.scales)};
}

DCA_HOST_DEVICE float float_of_half(uint16_t bits) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(bits));
#else
    return half_to_float(bits);
#endif
}

DCA_HOST_DEVICE uint16_t half_of_float(float value) {
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(value));
#else
    return float_to_half(value);
#endif
}

/// The upper half of a float's bits, which is all of it where it is a power of two.
DCA_HOST_DEVICE uint16_t upper_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
}
DCA_HOST_DEVICE float float_of_upper_half(uint16_t half) {
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/// A unit before it is packed: value i is scale[g] * (q[i] - offset) or scale[g] * q[i] + minimum[g] or scale[0] * level[q[i]].
struct UnitValues {
    int8_t q[kUnit];
    float scale[2], minimum[2];
};

/// The words of a unit in its planes.
template <class P>
struct Unit {
    uint32_t low[P::kLowWords];
    uint32_t high[P::kHighWords > 0 ? P::kHighWords : 1];
    uint16_t scales[P::kScaleHalves];
};

/// Where in a high word the bits of low word j's nibble n (of every byte k, at 8 k) are.
template <class P>
constexpr DCA_HOST_DEVICE int high_word(int j) {
    return P::kHighBits == 2 ? j / 2 : 0;
}
template <class P>
constexpr DCA_HOST_DEVICE int high_shift(int j, int n) {
    return P::kHighBits == 2 ? 2 * (2 * (j % 2) + n) : 2 * j + n;
}

template <class P>
DCA_HOST_DEVICE Unit<P> pack_unit(const UnitValues& values) {
    Unit<P> unit{};
    if constexpr (P::kLowBits == 8) {
        for (int i = 0; i < kUnit; ++i) unit.low[i / 4] |= uint32_t{static_cast<uint8_t>(values.q[i])} << 8 * (i % 4);
    } else if constexpr (P::kTable) {
        for (int i = 0; i < kUnit; ++i) unit.low[i / 8] |= uint32_t{static_cast<uint8_t>(values.q[i])} << 4 * (i % 8);
    } else {
        for (int j = 0; j < 4; ++j) {
            for (int k = 0; k < 4; ++k) {
                for (int n = 0; n < 2; ++n) {
                    const uint32_t q = static_cast<uint8_t>(values.q[16 * n + 4 * j + k]);
                    unit.low[j] |= (q & 15) << (8 * k + 4 * n);
                    if constexpr (P::kHighBits > 0) unit.high[high_word<P>(j)] |= q >> 4 << (8 * k + high_shift<P>(j, n));
                }
            }
        }
    }
    for (int g = 0; g < P::kGroups; ++g) {
        if constexpr (P::kMinimum) {
            unit.scales[2 * g] = half_of_float(values.scale[g]);
            unit.scales[2 * g + 1] = half_of_float(values.minimum[g]);
        } else if constexpr (P::kScales == Scales::Fine) {
            unit.scales[g] = half_of_float(values.scale[g] * kFineSteps);
        } else if constexpr (P::kScales == Scales::Power) {
            unit.scales[0] = upper_half(values.scale[0]);
        } else {
            unit.scales[g] = half_of_float(values.scale[g]);
        }
    }
    return unit;
}

/// Unit `u` of a row.
template <class P>
DCA_HOST_DEVICE void store_unit(const Matrix& matrix, uint32_t row, uint32_t u, const Unit<P>& unit) {
    const uint64_t index = uint64_t{row} * (matrix.cols / kUnit) + u, padded = uint64_t{row} * padded_units(matrix.cols) + u;
    for (int i = 0; i < P::kLowWords; ++i) static_cast<uint32_t*>(matrix.low)[index * P::kLowWords + i] = unit.low[i];
    for (int i = 0; i < P::kHighWords; ++i) static_cast<uint32_t*>(matrix.high)[padded * P::kHighWords + i] = unit.high[i];
    for (int i = 0; i < P::kScaleHalves; ++i) static_cast<uint16_t*>(matrix.scales)[padded * P::kScaleHalves + i] = unit.scales[i];
}

/// The scale of a group, of those of its unit.
template <class P>
DCA_HOST_DEVICE float group_scale(const uint16_t* scales, int group) {
    if constexpr (P::kScales == Scales::Power) return float_of_upper_half(scales[group]);
    const float scale = float_of_half(scales[P::kGroupHalves * group]);
    if constexpr (P::kScales == Scales::Fine) return scale * (1.0f / kFineSteps);
    return scale;
}

/// Word j of a four-bit unit as four bytes: the values of nibble n, high bits and all.
template <class P>
DCA_HOST_DEVICE uint32_t nibble_bytes(uint32_t low, const uint32_t* high, int j, int n) {
    uint32_t bytes = low >> 4 * n & 0x0f0f0f0fu;
    if constexpr (P::kHighBits > 0) {
        constexpr uint32_t mask = P::kHighBits == 2 ? 0x30303030u : 0x10101010u;
        const int shift = high_shift<P>(j, n);
        const uint32_t word = high[high_word<P>(j)];
        bytes |= (shift < 4 ? word << (4 - shift) : word >> (shift - 4)) & mask;
    }
    return bytes;
}

/// Values 8c ... 8c + 7 of unit `u` of a row.
template <class P>
DCA_HOST_DEVICE void decode_eight(const Matrix& matrix, uint32_t row, uint32_t u, int c, float (&out)[8]) {
    const uint64_t index = uint64_t{row} * (matrix.cols / kUnit) + u, padded = uint64_t{row} * padded_units(matrix.cols) + u;
    const uint32_t* low = static_cast<const uint32_t*>(matrix.low) + index * P::kLowWords;
    const uint16_t* scales = static_cast<const uint16_t*>(matrix.scales) + padded * P::kScaleHalves;
    const int group = P::kGroups == 2 ? c / 2 : 0;
    const float scale = group_scale<P>(scales, group);
    uint32_t bytes[2];
    if constexpr (P::kLowBits == 8) {
        bytes[0] = low[2 * c];
        bytes[1] = low[2 * c + 1];
    } else if constexpr (P::kTable) {
        look_up<LevelWords<P::kLevels, 0>>(low[c], bytes);
    } else {
        const uint32_t* high = static_cast<const uint32_t*>(matrix.high) + padded * P::kHighWords;
        const int j = 2 * (c % 2);
        bytes[0] = nibble_bytes<P>(low[j], high, j, c / 2);
        bytes[1] = nibble_bytes<P>(low[j + 1], high, j + 1, c / 2);
    }
    DCA_UNROLL
    for (int i = 0; i < 8; ++i) {
        const auto q = static_cast<int8_t>(bytes[i / 4] >> 8 * (i % 4));
        if constexpr (P::kMinimum) {
            out[i] = scale * q + float_of_half(scales[2 * group + 1]);
        } else {
            out[i] = scale * (q - P::kOffset);
        }
    }
}

// The product of a piece of a row (16 bytes of its low plane: 32 four-bit or 16 eight-bit weights)
// and activations in 16-bit integers, x[i] = scale * value[i]: exact in 32-bit integers, one scale
// multiplication at the end. Eight bits would be twice as fast in the multipliers, which are not
// what limits a decode step, and would cost accuracy.

struct alignas(16) Words {
    uint32_t w[4];
};

/// A block of 32 activations: their scale, and what else products with a format want of it.
struct alignas(16) ActivationBlock {
    float scale;
    int32_t sum[2];  // of the integers, by halves of 16; for codes that are looked up, of all and a word of the table
    uint32_t table;  // a second word: read from memory both stay in registers, where the compiler copies a constant for every look-up
};

/// `first` and `second` are sums of 16 integers.
template <class P>
DCA_HOST_DEVICE ActivationBlock activation_block(float scale, int32_t first, int32_t second) {
    if constexpr (P::kTable) {
        using Split = SplitLevels<P::kLevels>;
        return {scale, {first + second, static_cast<int32_t>(Split::k0)}, Split::k2};
    }
    return {scale, {first, second}, 0};
}

/// c + a's two signed 16-bit values times b's bytes 2 half and 2 half + 1, signed or unsigned.
template <int kHalf, bool kSigned>
DCA_HOST_DEVICE int32_t dot_pair(uint32_t a, uint32_t b, int32_t c) {
#if defined(__CUDA_ARCH__)
    int32_t sum;
    if constexpr (kHalf == 0 && kSigned) asm("dp2a.lo.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    if constexpr (kHalf == 1 && kSigned) asm("dp2a.hi.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    if constexpr (kHalf == 0 && !kSigned) asm("dp2a.lo.s32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    if constexpr (kHalf == 1 && !kSigned) asm("dp2a.hi.s32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
#else
    const auto byte = [&](int i) {
        const auto bits = static_cast<uint8_t>(b >> 8 * (2 * kHalf + i));
        return kSigned ? int32_t{static_cast<int8_t>(bits)} : int32_t{bits};
    };
    return c + static_cast<int16_t>(a) * byte(0) + static_cast<int16_t>(a >> 16) * byte(1);
#endif
}

template <class P>
struct Piece {
    static constexpr int kWeights = P::kLowBits == 8 ? 16 : 32;
    static constexpr int kChunks = kWeights / 8;  // 16-byte chunks of activations
    Words low;
    uint32_t high[P::kHighWords > 0 ? P::kHighWords : 1];
    uint16_t scales[P::kScaleHalves];
};

/// `x` are the piece's activations in order, `block` those of their block of 32.
template <class P>
DCA_HOST_DEVICE float dot_piece(const Piece<P>& piece, const Words (&x)[Piece<P>::kChunks], const ActivationBlock& block) {
    const auto pair = [&](int i) { return x[i / 4].w[i % 4]; };  // activations 2i and 2i + 1
    constexpr bool kSixteenfold = P::kHighBits == 0;
    int32_t sum[2] = {0, 0};
    if constexpr (P::kLowBits == 8) {
        DCA_UNROLL
        for (int j = 0; j < 4; ++j) {
            sum[j % 2] = dot_pair<0, true>(pair(2 * j), piece.low.w[j], sum[j % 2]);
            sum[j % 2] = dot_pair<1, true>(pair(2 * j + 1), piece.low.w[j], sum[j % 2]);
        }
        return float_of_half(piece.scales[0]) * block.scale * static_cast<float>(sum[0] + sum[1]);
    } else if constexpr (P::kTable) {
        using Split = SplitLevels<P::kLevels>;
        DCA_UNROLL
        for (int j = 0; j < 4; ++j) {
            uint32_t below[2], above[2];
            look_up_split<Split>(piece.low.w[j], static_cast<uint32_t>(block.sum[1]), block.table, below, above);
            DCA_UNROLL
            for (int n = 0; n < 2; ++n) {
                sum[n] = dot_pair<0, true>(pair(4 * j + 2 * n), below[n], sum[n]);
                sum[n] = dot_pair<1, true>(pair(4 * j + 2 * n + 1), below[n], sum[n]);
                sum[n] = dot_pair<0, true>(pair(4 * j + 2 * n), above[n], sum[n]);
                sum[n] = dot_pair<1, true>(pair(4 * j + 2 * n + 1), above[n], sum[n]);
            }
        }
        const int32_t products = sum[0] + sum[1] - Split::kBias * block.sum[0];
        return group_scale<P>(piece.scales, 0) * block.scale * static_cast<float>(products);
    } else {
        DCA_UNROLL
        for (int j = 0; j < 4; ++j) {
            DCA_UNROLL
            for (int n = 0; n < 2; ++n) {
                // A high nibble without high bits counts sixteenfold where it is.
                const uint32_t bytes =
                    kSixteenfold && n == 1 ? piece.low.w[j] & 0xf0f0f0f0u : nibble_bytes<P>(piece.low.w[j], piece.high, j, n);
                sum[n] = dot_pair<0, false>(pair(8 * n + 2 * j), bytes, sum[n]);
                sum[n] = dot_pair<1, false>(pair(8 * n + 2 * j + 1), bytes, sum[n]);
            }
        }
        if constexpr (kSixteenfold) sum[1] >>= 4;  // exact
        float total = 0.0f;
        DCA_UNROLL
        for (int g = 0; g < P::kGroups; ++g) {
            const int32_t products = P::kGroups == 2 ? sum[g] : sum[0] + sum[1];
            const int32_t x_sum = P::kGroups == 2 ? block.sum[g] : block.sum[0] + block.sum[1];
            if constexpr (P::kMinimum) {
                total += float_of_half(piece.scales[2 * g]) * static_cast<float>(products) +
                         float_of_half(piece.scales[2 * g + 1]) * static_cast<float>(x_sum);
            } else {
                total += float_of_half(piece.scales[g]) * static_cast<float>(products - P::kOffset * x_sum);
            }
        }
        return total * block.scale;
    }
}

}  // namespace dca::cuda
