// The arithmetic of a Q8 cache (attention.h): from values to a scale and bytes, and back.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

namespace dca::cuda {

/// The least scale of at most seven significant bits whose multiples up to 127 reach `largest`.
__device__ __forceinline__ __half q8_scale(float largest) {
    constexpr float kMostScale = 56.5f;             // 1152 times it is still an f16
    constexpr uint32_t kLostBits = (1u << 17) - 1;  // of f32's 23 behind the point, six remain
    const uint32_t bits = __float_as_uint(fminf(largest / 127.0f, kMostScale));
    return __float2half_ru(__uint_as_float((bits + kLostBits) & ~kLostBits));
}

/// A value as a byte; `inverse` is one over the row's scale.
__device__ __forceinline__ uint8_t q8_byte(float value, float inverse) {
    return static_cast<uint8_t>(128 + max(-127, min(127, __float2int_rn(value * inverse))));
}

/// The value of one byte, in f32.
__device__ __forceinline__ float q8_value(uint8_t byte, __half scale) { return (byte - 128) * __half2float(scale); }

/// Scales of a pair of rows or values of a Q8 cache, ready for dequantize_bytes.
struct ByteScale {
    __half2 scale, offset;

    __device__ __forceinline__ ByteScale(__half first, __half second)
        : scale(__halves2half2(first, second)), offset(__hmul2(scale, __float2half2_rn(-1152.0f))) {}
};

/// Four bytes of a Q8 cache as two pairs of f16. The f16 with bits 0x6400 + byte is 1024 + byte, so
/// (byte - 128) * scale = (1024 + byte) * scale - 1152 * scale; scales have seven bits, which makes the
/// last product exact and the whole one rounding.
__device__ __forceinline__ void dequantize_bytes(uint32_t bytes, const ByteScale& by, uint32_t& low, uint32_t& high) {
    const uint32_t low_bits = __byte_perm(bytes, 0x64646464u, 0x4140), high_bits = __byte_perm(bytes, 0x64646464u, 0x4342);
    const __half2 low_pair = __hfma2(*reinterpret_cast<const __half2*>(&low_bits), by.scale, by.offset);
    const __half2 high_pair = __hfma2(*reinterpret_cast<const __half2*>(&high_bits), by.scale, by.offset);
    low = *reinterpret_cast<const uint32_t*>(&low_pair);
    high = *reinterpret_cast<const uint32_t*>(&high_pair);
}

/// Eight bytes of one row as four pairs.
__device__ __forceinline__ uint4 dequantize_eight(uint2 bytes, __half scale) {
    const ByteScale by(scale, scale);
    uint4 pairs;
    dequantize_bytes(bytes.x, by, pairs.x, pairs.y);
    dequantize_bytes(bytes.y, by, pairs.z, pairs.w);
    return pairs;
}

}  // namespace dca::cuda
