// Conversions between f32 and the 16-bit floats of GGUF files, as bit patterns, and MXFP4's scales.
//
// Always inlined: translation units compiled for different instruction sets include this file,
// and the linker must not hand one unit's copy of a function to another.
#pragma once

#include <bit>
#include <cstdint>

namespace dca {

/// IEEE binary16 to f32; exact, NaN payloads kept.
[[gnu::always_inline]] constexpr inline float half_to_float(uint16_t half) noexcept {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x0400u) {  // zero or subnormal: magnitude counts steps of 2^-24
        const float value = static_cast<float>(magnitude) * 0x1p-24f;
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
    }
    return std::bit_cast<float>(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
}

/// f32 to IEEE binary16, to nearest, ties to even; beyond 65520 infinity, NaN stays NaN.
[[gnu::always_inline]] constexpr inline uint16_t float_to_half(float value) noexcept {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
    if (magnitude < 0x38800000u) {  // below 2^-14: the sum's last bit weighs 2^-24, so the adder rounds
        const float sum = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f)));
    }
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - ((127u - 15u) << 23)) >> 13));
}

/// bfloat16 to f32; exact.
[[gnu::always_inline]] constexpr inline float bf16_to_float(uint16_t bf16) noexcept {
    return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16);
}

/// f32 to bfloat16, to nearest, ties to even; NaN becomes a quiet NaN.
[[gnu::always_inline]] constexpr inline uint16_t float_to_bf16(float value) noexcept {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// MXFP4's scale 2^(e - 128), also where that is below the smallest normal number; a bfloat16 holds each.
[[gnu::always_inline]] constexpr inline float mxfp4_scale(uint8_t e) noexcept {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

}  // namespace dca
