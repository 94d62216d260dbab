// Matrix products of many tokens through cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "cuda/device/card.h"
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
    bool often;        // comes again and again: its algorithm is worth measuring
};

/// Picks an algorithm once per shape and keeps it: the first that cuBLASLt proposes or, of products that come often, the
/// fastest by measurement. One thread at a time.
///
/// What was measured holds for the whole process, so that engines of one process give the same bits. Another process may
/// choose another algorithm and differ in last bits; a later proposal has to be clearly faster to be chosen before an earlier
/// one, so mostly it does not.
class Gemm {
public:
    static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLASLt's Hopper kernels are made for

    /// `workspace` is device memory of kWorkspaceBytes, used by one stream at a time. `scratch` is device memory of
    /// `scratch_bytes` that no product reads, though one may write to it: measuring reads and overwrites it.
    Gemm(const Card& card, void* workspace, void* scratch, size_t scratch_bytes)
        : card_(card), handle_(take_blas_handle()), workspace_(workspace), scratch_(scratch), scratch_bytes_(scratch_bytes) {}

    /// Launches on `stream` and returns without waiting, unless it has to measure (some milliseconds, once): not while
    /// `stream` is recorded.
    void multiply(const GemmArgs& args, cudaStream_t stream);

    struct Key {
        uint32_t tokens, rows, cols, y_stride;
        Dtype dtype;
        bool in_f32, y_f32, add, bias, often;
        auto operator<=>(const Key&) const = default;
    };

private:
    struct Plan;

    Plan& plan(const GemmArgs& args, cudaStream_t stream);
    std::vector<cublasLtMatmulAlgo_t> proposals(const GemmArgs& args, const Plan& plan, int most);
    cublasLtMatmulAlgo_t measured(const Key& key, const GemmArgs& args, Plan& plan, cudaStream_t stream);
    float fastest_ms(const GemmArgs& args, Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, cudaStream_t stream);
    cublasStatus_t launch(const GemmArgs& args, Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, cudaStream_t stream);

    Card card_;
    BlasHandle handle_;
    void* workspace_;
    void* scratch_;
    size_t scratch_bytes_;
    std::map<Key, std::shared_ptr<Plan>> plans_;
};

}  // namespace dca::cuda
