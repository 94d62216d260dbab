// Results that the host waits for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dca::cuda {

/// Copies n values to host memory that the device can reach. The copy engine would do it after all that other streams have asked
/// of it, which may be pages that leave for host memory.
cudaError_t write_to_host(const float* from, uint64_t n, float* to, cudaStream_t stream);

}  // namespace dca::cuda
