#include "cuda/device/allow_shared.h"

#include <map>
#include <mutex>
#include <utility>

namespace dca::cuda {

cudaError_t allow_shared_bytes(const void* kernel, size_t bytes) {
    static std::mutex mutex;
    static std::map<std::pair<int, const void*>, size_t> allowed;  // by card and kernel

    int ordinal = 0;
    if (const cudaError_t status = cudaGetDevice(&ordinal); status != cudaSuccess) return status;
    const std::lock_guard lock(mutex);
    size_t& most = allowed[{ordinal, kernel}];
    if (bytes <= most) return cudaSuccess;
    const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status == cudaSuccess) most = bytes;
    return status;
}

cudaError_t divide_memory(const void* kernel, int percent) {
    static std::mutex mutex;
    static std::map<std::pair<int, const void*>, int> divided;  // by card and kernel

    int ordinal = 0;
    if (const cudaError_t status = cudaGetDevice(&ordinal); status != cudaSuccess) return status;
    const std::lock_guard lock(mutex);
    int& last = divided.try_emplace({ordinal, kernel}, cudaSharedmemCarveoutDefault).first->second;
    if (percent == last) return cudaSuccess;
    const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, percent);
    if (status == cudaSuccess) last = percent;
    return status;
}

}  // namespace dca::cuda
