// Keys of a cache of any type, eight values at a time, as they lie there: those of caches of codes turned (hadamard.cuh).
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/device/halves.cuh"

namespace dca::cuda {

/// Eight values of the key in `row` of the cache's rows, those from 8 `vector` on; of a Q4 cache less the page's centre, and with
/// `fine` (null: none) its row of fine codes.
__device__ __forceinline__ void load_eight(const LayerCache& cache, size_t row, const uint8_t* fine, int head_dim, int vector,
                                           float (&values)[8]) {
    if (cache.type == CacheType::Q4) {
        const auto* codes = static_cast<const uint8_t*>(cache.keys) + row * (head_dim / 2);
        read_q4(codes, fine, static_cast<const __half2*>(cache.key_scales) + 2 * row, vector, head_dim / 8, values);
        return;
    }
    const size_t at = row * head_dim + vector * 8;
    if (cache.type == CacheType::Q8) {
        const uint2 bytes = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(cache.keys) + at);
        const __half scale = static_cast<const __half*>(cache.key_scales)[row];
#pragma unroll
        for (int n = 0; n < 8; ++n) values[n] = q8_value((n < 4 ? bytes.x : bytes.y) >> n % 4 * 8 & 255, scale);
        return;
    }
    const uint4 pairs = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(cache.keys) + at);
    const uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const float2 two = unpack(words[n], cache.type == CacheType::F16 ? Dtype::F16 : Dtype::BF16);
        values[2 * n] = two.x, values[2 * n + 1] = two.y;
    }
}

}  // namespace dca::cuda
