// Small device functions that all attention kernels share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/positions.h"

namespace dca::cuda {

/// Start value of a running maximum: below any logit, yet finite, so that rows whose first
/// tile is masked entirely give exp(-inf) = 0 and not NaN.
constexpr float kNoMaximum = -1e30f;

/// m^2 of the query at index i, whose sequence is n = i + 1 tokens long.
__device__ __forceinline__ float logit_factor(const AttentionScheme& scheme, uint32_t i) {
    if (scheme.logit_scale == 0.0f) return 1.0f;
    const float m = fmaxf(1.0f, scheme.logit_scale * logf((i + 1.0f) / scheme.logit_scale_length) + 1.0f);
    return m * m;
}

__device__ __forceinline__ float load_element(const void* data, size_t at, Dtype dtype) {
    return dtype == Dtype::F16 ? __half2float(static_cast<const __half*>(data)[at])
                               : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
}

__device__ __forceinline__ void store_element(void* data, size_t at, Dtype dtype, float value) {
    if (dtype == Dtype::F16) static_cast<__half*>(data)[at] = __float2half_rn(value);
    else static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(value);
}

/// Two f32 in one register as T, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<__half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ uint32_t pack(float low, float high, Dtype dtype) {
    return dtype == Dtype::F16 ? pack<__half>(low, high) : pack<__nv_bfloat16>(low, high);
}

__device__ __forceinline__ float2 unpack(uint32_t pair, Dtype dtype) {
    return dtype == Dtype::F16 ? __half22float2(*reinterpret_cast<const __half2*>(&pair))
                               : __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

/// Scales of a pair of rows or values of a Q8 cache, ready for widen_bytes.
struct ByteScale {
    __half2 scale, offset;

    __device__ __forceinline__ ByteScale(__half first, __half second)
        : scale(__halves2half2(first, second)), offset(__hmul2(scale, __float2half2_rn(-1152.0f))) {}
};

/// Four bytes of a Q8 cache as two pairs of f16. The f16 with bits 0x6400 + byte is 1024 + byte, so
/// (byte - 128) * scale = (1024 + byte) * scale - 1152 * scale; scales have seven bits, which makes the
/// last product exact and the whole one rounding.
__device__ __forceinline__ void widen_bytes(uint32_t bytes, const ByteScale& by, uint32_t& low, uint32_t& high) {
    const uint32_t low_bits = __byte_perm(bytes, 0x64646464u, 0x4140), high_bits = __byte_perm(bytes, 0x64646464u, 0x4342);
    const __half2 low_pair = __hfma2(*reinterpret_cast<const __half2*>(&low_bits), by.scale, by.offset);
    const __half2 high_pair = __hfma2(*reinterpret_cast<const __half2*>(&high_bits), by.scale, by.offset);
    low = *reinterpret_cast<const uint32_t*>(&low_pair);
    high = *reinterpret_cast<const uint32_t*>(&high_pair);
}

/// Four values of a query's row.
struct Quad {
    float v[4];

    static __device__ __forceinline__ Quad from(uint2 bits, Dtype dtype) {
        const float2 low = unpack(bits.x, dtype), high = unpack(bits.y, dtype);
        return {{low.x, low.y, high.x, high.y}};
    }

    template <class T>
    __device__ __forceinline__ uint2 packed() const {
        return {pack<T>(v[0], v[1]), pack<T>(v[2], v[3])};
    }
};

/// A row of head_dim values is rotated in pieces of four pairs, eight values. Piece p of a row
/// is two runs of four consecutive values, at a and b; past rotary_dim they are only copied.
struct RotaryPiece {
    int a, b;      // first element of each run
    int pair;      // first pair, or -1: not rotated
};

__device__ __forceinline__ RotaryPiece rotary_piece(const AttentionShape& shape, int piece) {
    const int half = shape.rotary_dim / 2;
    const int pair = 4 * piece;
    if (pair >= half) return {8 * piece, 8 * piece + 4, -1};
    if (shape.rope_interleaved) return {8 * piece, 8 * piece + 4, pair};
    return {pair, half + pair, pair};
}

/// cos and sin of a piece's four pairs: (cos, sin, cos, sin) twice.
struct Angles {
    float4 low, high;
};

/// `row` is the table's row of the position.
__device__ __forceinline__ Angles load_angles(const float2* row, const RotaryPiece& piece) {
    if (piece.pair < 0) return {{1.0f, 0.0f, 1.0f, 0.0f}, {1.0f, 0.0f, 1.0f, 0.0f}};
    return {__ldg(reinterpret_cast<const float4*>(row + piece.pair)), __ldg(reinterpret_cast<const float4*>(row + piece.pair + 2))};
}

/// Rotates one piece and multiplies it by `factor`.
__device__ __forceinline__ void rotate_piece(Quad& a, Quad& b, const Angles& angles, bool interleaved, float factor) {
    const float c[4] = {angles.low.x, angles.low.z, angles.high.x, angles.high.z};
    const float s[4] = {angles.low.y, angles.low.w, angles.high.y, angles.high.w};
    const Quad x = interleaved ? Quad{{a.v[0], a.v[2], b.v[0], b.v[2]}} : a;
    const Quad y = interleaved ? Quad{{a.v[1], a.v[3], b.v[1], b.v[3]}} : b;
    Quad u, w;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        u.v[n] = (x.v[n] * c[n] - y.v[n] * s[n]) * factor;
        w.v[n] = (y.v[n] * c[n] + x.v[n] * s[n]) * factor;
    }
    a = interleaved ? Quad{{u.v[0], w.v[0], u.v[1], w.v[1]}} : u;
    b = interleaved ? Quad{{u.v[2], w.v[2], u.v[3], w.v[3]}} : w;
}

}  // namespace dca::cuda
