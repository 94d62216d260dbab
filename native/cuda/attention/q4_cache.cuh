// The arithmetic of a Q4 cache (attention.h): from values to scale, offset and codes, and back.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "cuda/attention/attention.h"

namespace dca::cuda {

/// What goes with the codes of half a row, and what encoding computes with.
struct Affine {
    __half2 stored;        // scale, offset
    float start, inverse;  // 0 where all values are one, or some is none

    /// Of half a row from its smallest to its largest value. In f16 the offset is rounded down, so that nothing lies below it.
    /// One with a value that is no number, or too large, is none.
    __device__ __forceinline__ Affine(float low, float high, bool finite) {
        const __half offset = __float2half_rd(low);
        start = __half2float(offset);
        const __half scale = __float2half_rn((high - start) / 15.0f);
        const float step = __half2float(scale);
        finite = finite && !__hisinf(scale) && !__hisinf(offset);
        inverse = finite && step > 0.0f ? 1.0f / step : 0.0f;
        stored = finite ? __halves2half2(scale, offset) : __half2half2(__ushort_as_half(0x7e00));
    }
};

/// A code, and the sixteenths of a step from it to the value, plus 8.
struct FineCode {
    uint32_t code, fine;

    __device__ __forceinline__ FineCode(float x, const Affine& by) {
        const float at = (x - by.start) * by.inverse;
        const float nearest = fminf(fmaxf(rintf(at), 0.0f), 15.0f);
        code = static_cast<uint32_t>(nearest);
        fine = static_cast<uint32_t>(fminf(fmaxf(rintf((at - nearest) * 16.0f), -8.0f), 7.0f) + 8.0f);
    }
};

/// A byte of fine codes that add nothing.
constexpr int kNoFineCodes = 0x88;

/// The code of feature e in a row of head_dim / 2 bytes.
__device__ __forceinline__ uint32_t q4_code(const uint8_t* row, int e, int head_dim) {
    const int half = head_dim / 2;
    return e < half ? row[e] & 15 : row[e - half] >> 4;
}

/// Which fine row belongs to `row` of a cache's rows; null: none.
__device__ __forceinline__ const uint8_t* fine_row(const LayerCache& cache, const void* fine, size_t row, int n_kv_heads, int head_dim) {
    const size_t head_row = row / kPageTokens;
    const uint32_t slot = __ldg(cache.fine_slots + head_row / n_kv_heads);
    if (slot == kNoFineSlot) return nullptr;
    const size_t within = (head_row % n_kv_heads) * kPageTokens + row % kPageTokens;
    return static_cast<const uint8_t*>(fine) + slot * cache.fine_stride + within * (head_dim / 2);
}

/// What is added to the keys of a page and head.
__device__ __forceinline__ const __half* centre_of(const LayerCache& cache, size_t page, int head, int head_dim) {
    return static_cast<const __half*>(cache.key_centres) + page * cache.centre_stride + head * head_dim;
}

/// Eight values of a row, those from 8 `vector` on of 8 `vectors`; `fine` is the row of fine codes that are read, null: none.
__device__ __forceinline__ void read_q4(const uint8_t* row, const uint8_t* fine, const __half2* affine, uint32_t vector, uint32_t vectors,
                                        float (&v)[8]) {
    const int high = vector >= vectors / 2;
    const __half2 by = affine[high];
    const uint32_t at = (vector - high * (vectors / 2)) * 8;
    const uint2 codes = *reinterpret_cast<const uint2*>(row + at);
    uint2 more = {0x01010101u * kNoFineCodes, 0x01010101u * kNoFineCodes};
    if (fine) more = *reinterpret_cast<const uint2*>(fine + at);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const int shift = n % 4 * 8 + 4 * high;
        const float code = static_cast<float>((n < 4 ? codes.x : codes.y) >> shift & 15);
        const float sixteenths = static_cast<float>((n < 4 ? more.x : more.y) >> shift & 15) - 8.0f;
        v[n] = (code + sixteenths * 0.0625f) * __low2float(by) + __high2float(by);
    }
}

/// The low and the high codes in bytes 0 and 2 of `bytes`, as two pairs of f16.
__device__ __forceinline__ void codes_of_bytes(uint32_t bytes, __half2& low, __half2& high) {
    // The f16 with bits 0x6400 + n is 1024 + n.
    const uint32_t low_bits = (bytes & 0x000f000fu) | 0x64006400u, high_bits = (bytes & 0x00f000f0u) | 0x64006400u;
    low = __hsub2(*reinterpret_cast<const __half2*>(&low_bits), __float2half2_rn(1024.0f));
    high = __hfma2(*reinterpret_cast<const __half2*>(&high_bits), __float2half2_rn(0.0625f), __float2half2_rn(-64.0f));
}

}  // namespace dca::cuda
