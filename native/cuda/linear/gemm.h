// Matrix products of many tokens through cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "cuda/device/dtype.h"
#include "cuda/linear/blas_handle.h"

namespace dca::cuda {

/// y (tokens, rows) = x (tokens, cols) · wᵀ, w (rows, cols), everything row-major; f32 accumulation.
struct GemmArgs {
    const void* w;  // dtype (or f32), rows back to back
    const void* x;  // likewise
    void* y;
    uint32_t tokens, rows, cols;
    uint32_t y_stride;  // elements between y's rows
    Dtype dtype;
    bool in_f32;       // w and x are f32 and not dtype: products in full f32
    bool y_f32;        // else dtype
    bool add;          // y += ...
    const void* bias;  // (rows) of y's type, added to every row; null: none
};

/// Picks an algorithm once per shape and keeps it. One thread at a time.
class Gemm {
public:
    static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLASLt's Hopper kernels are made for

    /// `workspace` is device memory of workspace_bytes, used by one stream at a time.
    explicit Gemm(void* workspace);

    /// Launches on `stream` and returns without waiting.
    void multiply(const GemmArgs& args, cudaStream_t stream);

private:
    struct Key {
        uint32_t tokens, rows, cols, y_stride;
        Dtype dtype;
        bool in_f32, y_f32, add, bias;
        auto operator<=>(const Key&) const = default;
    };
    struct Plan;

    Plan& plan(const GemmArgs& args);

    BlasHandle handle_;
    void* workspace_;
    std::map<Key, std::shared_ptr<Plan>> plans_;
};

}  // namespace dca::cuda
