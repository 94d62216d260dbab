// Numbers and 16-byte vectors of 16-bit floats, loads past the L1 cache, sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace dca::cuda {

/// Rounds to T; beyond f16's range to its largest value rather than infinity. NaN stays NaN.
template <class T>
__device__ __forceinline__ T rounded(float value);

template <>
__device__ __forceinline__ __half rounded<__half>(float value) {
    return __float2half_rn(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
}

template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float value) {
    return __float2bfloat16_rn(value);
}

template <class T>
__device__ __forceinline__ float to_float(T value) {
    if constexpr (sizeof(T) == 4)
        return value;
    else
        return static_cast<float>(value);
}

/// Eight values of T, moved as one.
template <class T>
struct alignas(16) Eight {
    T v[8];
};

// Loads that go past the L1 cache: with programmatic launch it may hold lines from before the
// previous kernel wrote them.

/// Two values of T (16 bits) as floats.
template <class T>
__device__ __forceinline__ float2 load_two(const T* from) {
    const uint32_t bits = __ldcg(reinterpret_cast<const uint32_t*>(from));
    const T* v = reinterpret_cast<const T*>(&bits);
    return {to_float(v[0]), to_float(v[1])};
}

/// Four values of T as floats. Stays where it is among other volatile operations.
template <class T>
__device__ __forceinline__ float4 load_four(const T* from) {
    if constexpr (sizeof(T) == 4) {
        float4 v;
        asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(from));
        return v;
    } else {
        uint2 bits;
        asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(bits.x), "=r"(bits.y) : "l"(from));
        const T* v = reinterpret_cast<const T*>(&bits);
        return {to_float(v[0]), to_float(v[1]), to_float(v[2]), to_float(v[3])};
    }
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

/// The sum over all threads of the block, in every thread. `scratch` holds a float per warp.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

}  // namespace dca::cuda
