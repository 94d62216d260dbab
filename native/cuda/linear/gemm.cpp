#include "cuda/linear/gemm.h"

#include "cuda/device/check.h"

namespace dca::cuda {

namespace {

constexpr size_t kMostPlans = 512;   // of odd lengths, which seldom come again
constexpr uint32_t kAlignment = 16;  // bytes, of every matrix's start

struct DestroyLayout {
    void operator()(cublasLtMatrixLayoutOpaque_t* layout) const noexcept { static_cast<void>(cublasLtMatrixLayoutDestroy(layout)); }
};
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DestroyLayout>;

struct DestroyDescription {
    void operator()(cublasLtMatmulDescOpaque_t* description) const noexcept { static_cast<void>(cublasLtMatmulDescDestroy(description)); }
};
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, DestroyDescription>;

struct DestroyPreference {
    void operator()(cublasLtMatmulPreferenceOpaque_t* preference) const noexcept {
        static_cast<void>(cublasLtMatmulPreferenceDestroy(preference));
    }
};
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyPreference>;

Layout make_layout(cudaDataType_t type, uint64_t rows, uint64_t cols, int64_t stride) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(cublasLtMatrixLayoutCreate(&layout, type, rows, cols, stride), "describing a matrix");
    return Layout(layout);
}

template <class T>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value), "describing a matrix product");
}

template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), "describing a matrix product");
}

}  // namespace

struct Gemm::Plan {
    Description description;
    Layout w, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

Gemm::Gemm(void* workspace) : handle_(take_blas_handle()), workspace_(workspace) {}

Gemm::Plan& Gemm::plan(const GemmArgs& args) {
    const Key key{args.tokens, args.rows, args.cols, args.y_stride, args.dtype, args.in_f32, args.y_f32, args.add, args.bias != nullptr};
    if (const auto found = plans_.find(key); found != plans_.end()) return *found->second;
    if (plans_.size() >= kMostPlans) plans_.clear();

    // cuBLASLt thinks in columns: it computes yᵀ (rows, tokens) = op(w) x, where w read by columns
    // is (cols, rows) and has to be transposed, and x read by columns is (cols, tokens).
    auto plan = std::make_shared<Plan>();
    const cudaDataType_t type = args.dtype == Dtype::F16 ? CUDA_R_16F : CUDA_R_16BF;
    const cudaDataType_t in_type = args.in_f32 ? CUDA_R_32F : type, y_type = args.y_f32 ? CUDA_R_32F : type;
    plan->w = make_layout(in_type, args.cols, args.rows, args.cols);
    plan->x = make_layout(in_type, args.cols, args.tokens, args.cols);
    plan->y = make_layout(y_type, args.rows, args.tokens, args.y_stride);

    cublasLtMatmulDesc_t description = nullptr;
    check(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a matrix product");
    plan->description.reset(description);
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (args.bias != nullptr) {
        set(plan->description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, y_type);
        set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    }

    cublasLtMatmulPreference_t raw_preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&raw_preference), "describing a matrix product");
    const Preference preference(raw_preference);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
        set(preference, operand, kAlignment);
    }

    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan->description.get(), plan->w.get(), plan->x.get(), plan->y.get(), plan->y.get(),
                                         preference.get(), 1, &result, &found),
          "choosing a matrix product");
    if (found == 0) {
        fail(DCA_ERROR_DEVICE, "cuBLASLt has no algorithm for a product of ", args.tokens, " tokens with a matrix of ", args.rows, " x ",
             args.cols);
    }
    plan->algorithm = result.algo;
    return *(plans_[key] = std::move(plan));
}

void Gemm::multiply(const GemmArgs& args, cudaStream_t stream) {
    Plan& chosen = plan(args);
    if (args.bias != nullptr) set(chosen.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    const float alpha = 1.0f, beta = args.add ? 1.0f : 0.0f;
    check(cublasLtMatmul(handle_.get(), chosen.description.get(), &alpha, args.w, chosen.w.get(), args.x, chosen.x.get(), &beta, args.y,
                         chosen.y.get(), args.y, chosen.y.get(), &chosen.algorithm, workspace_, kWorkspaceBytes, stream),
          "multiplying matrices");
}

}  // namespace dca::cuda
