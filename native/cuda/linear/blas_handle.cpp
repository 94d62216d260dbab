#include "cuda/linear/blas_handle.h"

#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "cuda/device/check.h"

namespace dca::cuda {

namespace {

struct Kept {
    std::mutex mutex;
    std::map<int, std::vector<cublasLtHandle_t>> handles;  // by card
};

/// Outlives everything: at the process's end CUDA may be gone before its users are.
Kept& kept() {
    static Kept& all = *new Kept;
    return all;
}

}  // namespace

BlasHandle take_blas_handle() {
    int ordinal = 0;
    check(cudaGetDevice(&ordinal), "starting cuBLASLt");
    const std::lock_guard lock(kept().mutex);
    std::vector<cublasLtHandle_t>& handles = kept().handles[ordinal];
    if (handles.empty()) {
        cublasLtHandle_t handle = nullptr;
        check(cublasLtCreate(&handle), "starting cuBLASLt");
        return BlasHandle(handle, {ordinal});
    }
    BlasHandle handle(handles.back(), {ordinal});
    handles.pop_back();
    return handle;
}

void KeepBlasHandle::operator()(cublasLtContext* handle) const noexcept {
    const std::lock_guard lock(kept().mutex);
    try {
        kept().handles[ordinal].push_back(handle);
    } catch (const std::bad_alloc&) {
        static_cast<void>(cublasLtDestroy(handle));
    }
}

}  // namespace dca::cuda
