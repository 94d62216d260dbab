// More dynamic shared memory than a kernel gets unasked.
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

}  // namespace dca::cuda
