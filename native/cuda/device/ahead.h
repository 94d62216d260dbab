// Bringing what a later kernel will read to the L2 cache while memory would rest.
//
// Between the products of a step of few rows stand small kernels: launching them, and their own few loads, cost microseconds in
// which memory does nothing. The matrix that comes next does not depend on them, so they ask for as much of it as memory can bring
// meanwhile.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#if defined(__CUDACC__)
#include "cuda/device/ptx.cuh"
#endif

namespace dca::cuda {

struct Ahead {
    const void* from = nullptr;  // 16-byte aligned
    uint32_t bytes = 0;          // a multiple of 16; 0: nothing
};

#if defined(__CUDACC__)
/// Asks for the part of worker number `worker` among `workers`: one thread. Nothing waits for what it asks for. Before Hopper it
/// does nothing.
__device__ __forceinline__ void fetch_ahead(const Ahead& ahead, uint32_t worker, uint32_t workers) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr uint32_t kPiece = 4096;
    for (uint32_t at = worker * kPiece; at < ahead.bytes; at += workers * kPiece)
        ptx::prefetch_bulk(static_cast<const uint8_t*>(ahead.from) + at, min(kPiece, ahead.bytes - at));
#else
    static_cast<void>(ahead), static_cast<void>(worker), static_cast<void>(workers);
#endif
}
#endif

}  // namespace dca::cuda
