// cuBLASLt's handles.
#pragma once

#include <cublasLt.h>

#include <memory>

namespace dca::cuda {

struct KeepBlasHandle {
    int ordinal;
    void operator()(cublasLtContext* handle) const noexcept;
};

/// A handle that nobody else uses, for the calling thread's card. It is kept for the next who asks and not destroyed:
/// that would wait for the whole card, which voids what other threads are recording (recordings.h).
using BlasHandle = std::unique_ptr<cublasLtContext, KeepBlasHandle>;
BlasHandle take_blas_handle();

}  // namespace dca::cuda
