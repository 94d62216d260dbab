// While ranks wait for each other in a sum, their cards' memory has nothing to do: blocks of threads beside those that add have
// what is multiplied next brought to the L2 cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

constexpr uint32_t kAheadBlocks = 64, kAheadThreads = 32;  // that ask for pieces; of a block

/// Pieces of memory that will be read: `piece` bytes (a multiple of 16) at every `apart` bytes.
struct Ahead {
    const std::byte* from = nullptr;
    uint32_t pieces = 0;  // 0: nothing is known
    uint32_t piece = 0;
    uint64_t apart = 0;
};

/// The beginning of what a product with `next` (null: unknown) reads.
Ahead ahead_of(const Card& card, const Matrix* next);

#if defined(__CUDACC__)
/// Of a block beside those that add: `block` counts from 0.
__device__ __forceinline__ void fetch_ahead([[maybe_unused]] const Ahead& ahead, [[maybe_unused]] uint32_t block) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (threadIdx.x >= kAheadThreads) return;
    for (uint32_t i = block * kAheadThreads + threadIdx.x; i < ahead.pieces; i += kAheadBlocks * kAheadThreads)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(ahead.from + i * ahead.apart), "r"(ahead.piece));
#endif
}
#endif

}  // namespace dca::cuda
