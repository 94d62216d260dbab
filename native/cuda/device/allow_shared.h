// More dynamic shared memory than a kernel gets unasked, and how a multiprocessor's memory is divided while it runs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace dca::cuda {

/// Lets `kernel` be launched with `bytes` of dynamic shared memory on the calling thread's card. The limit is one for all
/// threads and never falls: another thread may be about to launch the same kernel with more.
cudaError_t allow_shared_bytes(const void* kernel, size_t bytes);

template <class... Parameters>
cudaError_t allow_shared_bytes(void (*kernel)(Parameters...), size_t bytes) {
    return allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
}

/// Wishes that of the memory which a multiprocessor has for its first-level cache and for blocks `percent` are for blocks while
/// `kernel` runs, from the next launch on; cudaSharedmemCarveoutDefault: no wish. Unasked it stays as a kernel before wanted it.
cudaError_t divide_memory(const void* kernel, int percent);

template <class... Parameters>
cudaError_t divide_memory(void (*kernel)(Parameters...), int percent) {
    return divide_memory(reinterpret_cast<const void*>(kernel), percent);
}

}  // namespace dca::cuda
