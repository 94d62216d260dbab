// Launching a kernel so that it may start before its predecessor has ended (programmatic launch).
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/card.h"

namespace dca::cuda {

/// The kernel must call await_previous() before it touches anything an earlier kernel writes or reads.
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapped(const Card& card, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                              cudaStream_t stream, const Arguments&... arguments) {
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = card.compute_capability >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

#if defined(__CUDACC__)
// A kernel may start while the one before it still runs, and touches nothing that kernel writes
// before await_previous(). Before Hopper these do nothing.

__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ __forceinline__ void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}
#endif

}  // namespace dca::cuda
