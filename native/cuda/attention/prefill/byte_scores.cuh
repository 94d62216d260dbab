// Scores over a Q8 cache as products of bytes: keys are the cache's own, as they lie there, queries become bytes with a scale a
// row. A key's byte is its value's plus 128, so accumulators begin at what that adds to all, negated.
#pragma once

#include "cuda/attention/hadamard.cuh"
#include "cuda/device/panels.cuh"
#include "cuda/device/wgmma_bytes.cuh"

namespace dca::cuda {

/// Two rows of a thread: of the tile's rows `row` and row + 8.
struct ByteRows {
    // The f32 with bits kMagic + n is 12,582,912 + n, for n between -2^22 and 2^22: sums of up to 256 products of bytes' halves.
    static constexpr uint32_t kMagic = 0x4b400000;
    static constexpr float kMagicValue = 12582912.0f;

    float scale[2];
    uint32_t start[2];  // of accumulators
};

/// A warp's 16 rows of kHeadDim values in f16, at(row, e) for values e and e + 1, turned and rounded to bytes. These go to `to`,
/// 16 kHeadDim bytes that may be the rows' own memory, in which row r is written after all up to it are read. For rows lane / 4
/// and that + 8: what belongs to the bytes.
template <int kHeadDim, class At>
__device__ __forceinline__ ByteRows rows_to_bytes(uint8_t* to, int lane, At&& at) {
    using Bytes = Panels<kHeadDim / 2>;  // as pairs of bytes
    constexpr int kCount = (kHeadDim + 63) / 64;
    ByteRows rows{};
#pragma unroll 1
    for (int row = 0; row < 16; ++row) {
        float2 v[kCount];
        float largest = 0.0f;
#pragma unroll
        for (int n = 0; n < kCount; ++n) v[n] = unpack(*at(row, 2 * (lane + 32 * n)), Dtype::F16);
        turn_pairs(v, kHeadDim);
#pragma unroll
        for (int n = 0; n < kCount; ++n) largest = fmaxf(largest, fmaxf(fabsf(v[n].x), fabsf(v[n].y)));
#pragma unroll
        for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
        largest = fmaxf(largest, 1e-20f);
        const float inverse = 127.0f / largest;
        int sum = 0;
        uint16_t pairs[kCount];
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const int x = __float2int_rn(v[n].x * inverse), y = __float2int_rn(v[n].y * inverse);
            sum += x + y;
            pairs[n] = static_cast<uint16_t>((x & 255) | (y & 255) << 8);
        }
        sum = __reduce_add_sync(~0u, sum);
        __syncwarp();
#pragma unroll
        for (int n = 0; n < kCount; ++n) *reinterpret_cast<uint16_t*>(to + Bytes::offset(16, row, lane + 32 * n)) = pairs[n];
        if (row % 8 == lane / 4) {
            const int half = row / 8;
            const float scale = largest / 127.0f;
            const uint32_t start = ByteRows::kMagic - 128 * sum;
            if (half == 0)
                rows.scale[0] = scale, rows.start[0] = start;
            else
                rows.scale[1] = scale, rows.start[1] = start;
        }
    }
    return rows;
}

/// What accumulators begin at.
__device__ __forceinline__ void start_scores(uint32_t (&acc)[64], const ByteRows& rows) {
#pragma unroll
    for (int n = 0; n < 64; ++n) acc[n] = rows.start[n / 2 % 2];
}

/// Sums of 128 columns times the columns' scales: logits but for the rows' scales. `scales` is in shared memory.
__device__ __forceinline__ void scale_scores(const uint32_t (&acc)[64], const __half* scales, int lane, float (&s)[64]) {
#pragma unroll
    for (int n = 0; n < 64; n += 4) {
        const float2 by = __half22float2(*reinterpret_cast<const __half2*>(scales + 2 * n + lane % 4 * 2));
        // Scales have seven significant bits: exact.
        const float2 less = {-ByteRows::kMagicValue * by.x, -ByteRows::kMagicValue * by.y};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            s[n + 2 * half] = fmaf(__uint_as_float(acc[n + 2 * half]), by.x, less.x);
            s[n + 2 * half + 1] = fmaf(__uint_as_float(acc[n + 2 * half + 1]), by.y, less.y);
        }
    }
}

}  // namespace dca::cuda
