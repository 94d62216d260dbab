// Caches of codes keep keys and values turned by Hadamard matrices over the head's features, so that no channel
// decides the scale: scores stay as they are where queries are turned too, and outputs are turned back. Matrices are as large as
// hadamard_size, side by side along a head; they are their own inverses.
#pragma once

#include <cmath>

#include "core/backend/cache_type.h"
#include "cuda/device/halves.cuh"

namespace dca::cuda {

/// A row of up to 64 kCount values over a warp: this lane holds values 2 (lane + 32 n) and the next.
template <int kCount>
__device__ __forceinline__ void turn_pairs(float2 (&v)[kCount], int head_dim) {
    const int size = hadamard_size(head_dim);
    const int lane = threadIdx.x % 32;
    const float factor = rsqrtf(static_cast<float>(size));
#pragma unroll
    for (int n = 0; n < kCount; ++n) v[n] = {(v[n].x + v[n].y) * factor, (v[n].x - v[n].y) * factor};
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        if (2 * step >= size) break;
        const float sign = lane & step ? -1.0f : 1.0f;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            const float x = __shfl_xor_sync(~0u, v[n].x, step), y = __shfl_xor_sync(~0u, v[n].y, step);
            v[n] = {fmaf(sign, v[n].x, x), fmaf(sign, v[n].y, y)};
        }
    }
#pragma unroll
    for (int step = 1; step < kCount; step *= 2) {
        if (64 * step >= size) break;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            if (n & step) continue;
            const float2 a = v[n], b = v[n + step];
            v[n] = {a.x + b.x, a.y + b.y};
            v[n + step] = {a.x - b.x, a.y - b.y};
        }
    }
}

/// The same where the lane holds values lane + 32 n.
template <int kCount>
__device__ __forceinline__ void turn_singles(float (&v)[kCount], int head_dim) {
    const int size = hadamard_size(head_dim);
    const int lane = threadIdx.x % 32;
    const float factor = rsqrtf(static_cast<float>(size));
#pragma unroll
    for (int n = 0; n < kCount; ++n) v[n] *= factor;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        if (step >= size) break;
        const float sign = lane & step ? -1.0f : 1.0f;
#pragma unroll
        for (int n = 0; n < kCount; ++n) v[n] = fmaf(sign, v[n], __shfl_xor_sync(~0u, v[n], step));
    }
#pragma unroll
    for (int step = 1; step < kCount; step *= 2) {
        if (32 * step >= size) break;
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
            if (n & step) continue;
            const float a = v[n], b = v[n + step];
            v[n] = a + b;
            v[n + step] = a - b;
        }
    }
}

/// The same for eight neighbouring values a thread, threads of a row side by side and rows of whole multiples of the matrices
/// from a lane that is a multiple of their threads on. All of a warp must come here.
__device__ __forceinline__ void turn_eights(float (&v)[8], int head_dim) {
    const int size = hadamard_size(head_dim);
    const int lane = threadIdx.x % 32;
    const float factor = rsqrtf(static_cast<float>(size));
#pragma unroll
    for (int step = 1; step < 8; step *= 2)
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            if (n & step) continue;
            const float a = v[n], b = v[n + step];
            v[n] = a + b;
            v[n + step] = a - b;
        }
#pragma unroll
    for (float& x : v) x *= factor;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        if (8 * step >= size) break;
        const float sign = lane & step ? -1.0f : 1.0f;
#pragma unroll
        for (float& x : v) x = fmaf(sign, x, __shfl_xor_sync(~0u, x, step));
    }
}

/// Four neighbouring values a thread, threads of a row side by side from a lane that is a multiple of their matrices' threads on. Those
/// of a matrix must come here together, others of the warp need not.
template <int kHeadDim>
__device__ __forceinline__ void turn_quads(float4& v) {
    constexpr int kSize = hadamard_size(kHeadDim), kLanes = kSize / 4;
    static_assert(kLanes <= 32, "a matrix lies in one warp");
    const int lane = threadIdx.x % 32;
    const uint32_t together = (~0u >> (32 - kLanes)) << (lane / kLanes * kLanes);
    const float a = v.x + v.y, b = v.x - v.y, c = v.z + v.w, d = v.z - v.w;
    const float factor = rsqrtf(static_cast<float>(kSize));
    v = {(a + c) * factor, (b + d) * factor, (a - c) * factor, (b - d) * factor};
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) {
        const float sign = lane & step ? -1.0f : 1.0f;
        v.x = fmaf(sign, v.x, __shfl_xor_sync(together, v.x, step));
        v.y = fmaf(sign, v.y, __shfl_xor_sync(together, v.y, step));
        v.z = fmaf(sign, v.z, __shfl_xor_sync(together, v.z, step));
        v.w = fmaf(sign, v.w, __shfl_xor_sync(together, v.w, step));
    }
}

/// Turns a row of kHeadDim 16-bit values in place; at(e) gives the address of values e and e + 1. For a whole warp.
template <class T, int kHeadDim, class At>
__device__ __forceinline__ void turn_row(At&& at) {
    constexpr int kCount = (kHeadDim + 63) / 64;
    constexpr Dtype dtype = std::is_same_v<T, __half> ? Dtype::F16 : Dtype::BF16;
    const int lane = threadIdx.x % 32;
    float2 v[kCount];
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        const int e = 2 * (lane + 32 * n);
        v[n] = e < kHeadDim ? unpack(*at(e), dtype) : float2{};
    }
    turn_pairs(v, kHeadDim);
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e < kHeadDim) *at(e) = pack<T>(v[n].x, v[n].y);
    }
}

}  // namespace dca::cuda
