#include "cuda/device/write_to_host.h"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) write_to_host_kernel(const float* from, uint64_t n, float* to) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < n) to[i] = from[i];
}

}  // namespace

cudaError_t write_to_host(const float* from, uint64_t n, float* to, cudaStream_t stream) {
    write_to_host_kernel<<<static_cast<uint32_t>((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(from, n, to);
    return cudaGetLastError();
}

}  // namespace dca::cuda
