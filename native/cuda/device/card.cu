#include "cuda/device/card.h"

namespace dca::cuda {
namespace {

__global__ void probe() {}

}  // namespace

cudaError_t describe_card(int ordinal, Card& card) {
    cudaError_t error = cudaSuccess;
    const auto ask = [&](cudaDeviceAttr attribute) {
        int value = 0;
        if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, ordinal);
        return value;
    };
    card.compute_capability = 10 * ask(cudaDevAttrComputeCapabilityMajor) + ask(cudaDevAttrComputeCapabilityMinor);
    card.multiprocessors = ask(cudaDevAttrMultiProcessorCount);
    card.shared_bytes = static_cast<size_t>(ask(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    card.l2_bytes = static_cast<size_t>(ask(cudaDevAttrL2CacheSize));
    return error;
}

bool has_kernels(cudaError_t& other) {
    cudaFuncAttributes attributes;
    other = cudaSuccess;
    const cudaError_t status = cudaFuncGetAttributes(&attributes, probe);
    static_cast<void>(cudaGetLastError());
    switch (status) {
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorInvalidKernelImage:
        case cudaErrorUnsupportedPtxVersion:
        case cudaErrorJitCompilerNotFound: return false;
        default: other = status; return true;
    }
}

}  // namespace dca::cuda
