// Products through cuBLASLt under C names, for the Python beside this file.
#include <memory>

#include "cuda/device/check.h"
#include "cuda/linear/gemm.h"

using namespace dca::cuda;

extern "C" {

/// The argument's size, so that the caller can check its own declaration.
size_t dca_gemm_args_bytes() { return sizeof(GemmArgs); }
size_t dca_gemm_workspace_bytes() { return Gemm::kWorkspaceBytes; }

/// Null: it failed.
Gemm* dca_gemm_new(void* workspace, void* scratch, size_t scratch_bytes) {
    try {
        Card card;
        int ordinal = 0;
        check(cudaGetDevice(&ordinal), "testing");
        check(describe_card(ordinal, card), "testing");
        return std::make_unique<Gemm>(card, workspace, scratch, scratch_bytes).release();
    } catch (const dca::Error&) {
        return nullptr;
    }
}
void dca_gemm_free(Gemm* gemm) { std::unique_ptr<Gemm>(gemm).reset(); }

bool dca_gemm(Gemm* gemm, const GemmArgs* args, cudaStream_t stream) {
    try {
        gemm->multiply(*args, stream);
        return true;
    } catch (const dca::Error&) {
        return false;
    }
}
}
