#include "cuda/linear/gemm.h"

#include <algorithm>
#include <limits>
#include <mutex>

#include "cuda/device/check.h"
#include "cuda/device/resources.h"
#include "cuda/linear/elementwise.h"

namespace dca::cuda {

namespace {

constexpr size_t kMostPlans = 512;   // of odd lengths, which seldom come again
constexpr uint32_t kAlignment = 16;  // bytes, of every matrix's start
constexpr int kMeasured = 16;        // proposals
constexpr int kRuns = 4;             // of each
constexpr float kClearly = 0.97f;    // of the time so far, that a later proposal must stay below

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

/// What was measured in this process, by card.
struct Choices {
    std::mutex mutex;
    std::map<std::pair<int, Gemm::Key>, cublasLtMatmulAlgo_t> algorithms;
};

Choices& choices() {
    static Choices all;
    return all;
}

}  // namespace

struct Gemm::Plan {
    Description description;
    Layout w, x, y;
    cublasLtMatmulAlgo_t algorithm;
};

Gemm::Plan& Gemm::plan(const GemmArgs& args, cudaStream_t stream) {
    const Key key{args.tokens, args.rows,  args.cols, args.y_stride,        args.dtype,
                  args.in_f32, args.y_f32, args.add,  args.bias != nullptr, args.often};
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

    plan->algorithm = args.often ? measured(key, args, *plan, stream) : proposals(args, *plan, 1).front();
    return *(plans_[key] = std::move(plan));
}

std::vector<cublasLtMatmulAlgo_t> Gemm::proposals(const GemmArgs& args, const Plan& plan, int most) {
    cublasLtMatmulPreference_t raw_preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&raw_preference), "describing a matrix product");
    const Preference preference(raw_preference);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
        set(preference, operand, kAlignment);
    }
    if (most > 1) {  // the fastest may not be so by adding up its parts in 16 bits
        set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    }

    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_.get(), plan.description.get(), plan.w.get(), plan.x.get(), plan.y.get(), plan.y.get(),
                                         preference.get(), most, results.data(), &found),
          "choosing a matrix product");
    if (found == 0) {
        fail(DCA_ERROR_DEVICE, "cuBLASLt has no algorithm for a product of ", args.tokens, " tokens with a matrix of ", args.rows, " x ",
             args.cols);
    }
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < found; ++i) algorithms.push_back(results[static_cast<size_t>(i)].algo);
    return algorithms;
}

cublasLtMatmulAlgo_t Gemm::measured(const Key& key, const GemmArgs& args, Plan& plan, cudaStream_t stream) {
    int ordinal = 0;
    check(cudaGetDevice(&ordinal), "choosing a matrix product");
    const std::lock_guard lock(choices().mutex);  // also so that two do not measure at once
    if (const auto found = choices().algorithms.find({ordinal, key}); found != choices().algorithms.end()) return found->second;

    // A sum is read from y and written beside it; what is only written is written again by the product itself.
    const size_t y_bytes = size_t{args.tokens} * args.y_stride * (args.y_f32 ? 4 : 2);
    const std::vector<cublasLtMatmulAlgo_t> all = proposals(args, plan, !args.add || y_bytes <= scratch_bytes_ ? kMeasured : 1);
    void* y = args.add ? scratch_ : args.y;
    cublasLtMatmulAlgo_t chosen = all.front();
    if (all.size() > 1) {
        float best = std::numeric_limits<float>::infinity();
        for (const cublasLtMatmulAlgo_t& algorithm : all) {
            const float ms = fastest_ms(args, plan, algorithm, y, stream);
            if (ms >= kClearly * best) continue;
            best = ms;
            chosen = algorithm;
        }
    }
    choices().algorithms.emplace(std::pair(ordinal, key), chosen);
    return chosen;
}

/// The weights come from memory as they do in a step, not from the L2 cache. Infinity: the algorithm does not run.
float Gemm::fastest_ms(const GemmArgs& args, Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, cudaStream_t stream) {
    const Event begin = make_event(cudaEventDefault), end = make_event(cudaEventDefault);
    const size_t cold_bytes = std::min(scratch_bytes_, 2 * card_.l2_bytes);
    float best = std::numeric_limits<float>::infinity();
    for (int run = 0; run < kRuns; ++run) {
        // It also keeps the card busy until all of this is launched.
        check(read_through(card_, scratch_, cold_bytes, stream), "choosing a matrix product");
        check(cudaEventRecord(begin.get(), stream), "choosing a matrix product");
        if (launch(args, plan, algorithm, y, stream) != CUBLAS_STATUS_SUCCESS) return std::numeric_limits<float>::infinity();
        check(cudaEventRecord(end.get(), stream), "choosing a matrix product");
        check(cudaEventSynchronize(end.get()), "choosing a matrix product");
        float ms = 0.0f;
        check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "choosing a matrix product");
        best = std::min(best, ms);
    }
    return best;
}

/// y (+)= ..., where a sum is read from args.y.
cublasStatus_t Gemm::launch(const GemmArgs& args, Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, cudaStream_t stream) {
    const float alpha = 1.0f, beta = args.add ? 1.0f : 0.0f;
    return cublasLtMatmul(handle_.get(), plan.description.get(), &alpha, args.w, plan.w.get(), args.x, plan.x.get(), &beta, args.y,
                          plan.y.get(), y, plan.y.get(), &algorithm, workspace_, kWorkspaceBytes, stream);
}

void Gemm::multiply(const GemmArgs& args, cudaStream_t stream) {
    Plan& chosen = plan(args, stream);
    if (args.bias != nullptr) set(chosen.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
    check(launch(args, chosen, chosen.algorithm, args.y, stream), "multiplying matrices");
}

}  // namespace dca::cuda
