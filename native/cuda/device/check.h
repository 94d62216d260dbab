// CUDA's and cuBLASLt's statuses as exceptions.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "core/error.h"

namespace dca::cuda {

/// Errors after which CUDA wants the process to be started again, says its reference: later calls fail too, as far as was seen
/// also those about other cards (driver 580, two H200, an assertion).
inline bool ends_cuda(cudaError_t status) noexcept {
    switch (status) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchTimeout:
        case cudaErrorAssert:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorLaunchFailure:
        case cudaErrorECCUncorrectable: return true;
        default: return false;
    }
}

/// Throws Error unless `status` is a success; `what` says what was being done.
inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());  // else the next launch reports it again
    const bool memory = status == cudaErrorMemoryAllocation;
    fail(memory ? DCA_ERROR_MEMORY : DCA_ERROR_DEVICE, "CUDA failed while ", what, ": ", cudaGetErrorString(status), " (",
         cudaGetErrorName(status), ")", ends_cuda(status) ? "; CUDA takes no more work from this process, start it again" : "");
}

inline void check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    const bool memory = status == CUBLAS_STATUS_ALLOC_FAILED;
    fail(memory ? DCA_ERROR_MEMORY : DCA_ERROR_DEVICE, "cuBLASLt failed while ", what, ": ", cublasLtGetStatusString(status));
}

}  // namespace dca::cuda
