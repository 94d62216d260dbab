// 16-bit floats, single and in pairs, of a type that is known at compile time or at run time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "cuda/device/dtype.h"

namespace dca::cuda {

/// Past the L1 cache (vectors.cuh says why).
__device__ __forceinline__ float load_element(const void* data, size_t at, Dtype dtype) {
    return dtype == Dtype::F16 ? __half2float(__ldcg(static_cast<const __half*>(data) + at))
                               : __bfloat162float(__ldcg(static_cast<const __nv_bfloat16*>(data) + at));
}

__device__ __forceinline__ void store_element(void* data, size_t at, Dtype dtype, float value) {
    if (dtype == Dtype::F16)
        static_cast<__half*>(data)[at] = __float2half_rn(value);
    else
        static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(value);
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

}  // namespace dca::cuda
