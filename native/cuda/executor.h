// One session on a card: its cache, its activations, and the operations of backend.h over them.
//
// Steps of many tokens go through cuBLASLt and the prefill attention; a step of one token, and the
// last layer of a step of which one row is kept, through kernels made for one row. Those take the
// token and its index from memory, so that a recording of them (a CUDA graph) serves every later step.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "core/backend.h"
#include "cuda/device/device.h"
#include "cuda/linear/gemm.h"
#include "cuda/linear/matvec.h"
#include "cuda/device/resources.h"
#include "cuda/session_memory.h"
#include "cuda/weights/weights.h"

namespace dca::cuda {

struct ExpertRun;

class CudaExecutor final : public Executor {
public:
    CudaExecutor(const Hparams& hparams, const DeviceWeights& weights, const Device& device, ExecutorOptions options);
    ~CudaExecutor() override;

    uint32_t prefill_block() const override { return memory_.block; }
    uint64_t cache_bytes() const override { return memory_.cache_bytes; }
    uint64_t scratch_bytes() const override { return memory_.scratch_bytes; }

    void copy_cache(const Executor& from, uint32_t length) override;
    bool replay(std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) override;
    void begin(std::span<const int32_t> tokens, uint32_t start) override;
    void project_qkv(uint32_t layer) override;
    void store_keys_values(uint32_t layer) override;
    void keep_last_rows(uint32_t rows) override;
    void attend(uint32_t layer) override;
    void project_output(uint32_t layer) override;
    void feed_forward(uint32_t layer) override;
    void feed_forward_experts(uint32_t layer) override;
    void logits(float* out) override;
    void nll(std::span<const int32_t> targets, float* out) override;
    void end() override;

private:
    /// Where the first kept row of an activation is.
    float* x() const noexcept { return memory_.x + size_t{first_row_} * h_.n_embd; }
    std::byte* qkv() const noexcept { return memory_.qkv + size_t{first_row_} * qkv_width() * 2; }
    uint32_t qkv_width() const noexcept { return h_.q_width() + 2 * h_.kv_width(); }

    void prepare_step(std::span<const int32_t> tokens, uint32_t start);
    void record(std::span<const int32_t> tokens, uint32_t start);

    /// Rows of x, normed, to memory_.normed in the activations' type; the factors of the norm to `factors` if set.
    void norm(const float* weight, float* factors = nullptr);

    struct Output {
        void* to;
        uint32_t stride;  // elements
        bool f32;         // else the activations' type
        bool add;
    };
    /// Every part of `fused` times the kept rows of `in`, which lie back to back.
    void multiply(const FusedMatrices& fused, const void* in, const Output& out);
    void multiply(const Matrix& w, const void* in, const void* bias, const Output& out, uint32_t tokens);

    struct RowInput {
        const void* from;
        VectorType type;
        const float* norm;  // null: none
    };
    struct RowOutput {
        void* to;
        VectorType type;
        bool add;
    };
    MatvecArgs row_product(const Matrix& w, const RowInput& in, const RowOutput& out) const noexcept;
    /// The same for one row.
    void multiply_row(const FusedMatrices& fused, const RowInput& in, const RowOutput& out);
    /// Whether one kernel can project a row's q, k and v and put k and v into the cache.
    bool stores_while_projecting(const DeviceLayer& w) const noexcept;
    void project_and_store_row(uint32_t layer);
    /// memory_.gated_row (width) = silu(gate · norm(x)) · up · norm(x)
    void gate_row(const FusedMatrices& gate_up, const float* norm, uint32_t width);
    void feed_forward_row(uint32_t layer);
    void logits_row();

    // A mixture of experts (executor_experts.cpp). Of many rows: every row's experts, and the rows sorted
    // by expert; the experts of a run; the shared one. Each adds to x.
    void choose(const DeviceLayer& w, const float* factors);
    void route(const DeviceLayer& w);
    void multiply_experts(const FusedMatrices& fused, const ExpertRun& run, const std::byte* in, const Output& out);
    void run_experts(const DeviceLayer& w, const ExpertRun& run);
    void run_shared_expert(const DeviceLayer& w);
    /// The matrices of a row's experts, each times its vector.
    void multiply_chosen(const FusedMatrices& fused, const RowInput& in, uint32_t in_apart, float* out, uint32_t out_apart, bool gated);
    void feed_forward_experts_row(const DeviceLayer& w);

    VectorType row_type() const noexcept { return weights_.dtype() == Dtype::F16 ? VectorType::F16 : VectorType::BF16; }

    const Hparams& h_;
    const DeviceWeights& weights_;
    Device device_;
    AttentionShape shape_;
    Scheme scheme_;
    SessionMemory memory_;
    Gemm gemm_;
    Stream stream_;

    uint32_t rows_ = 0;       // tokens of the step still kept
    uint32_t first_row_ = 0;  // how many of its first ones are not
    uint32_t start_ = 0;      // index of the first token kept

    bool warm_ = false;       // a step of one token has run, so that all its kernels are loaded
    bool recording_ = false;
    bool replayed_ = false;   // the step came from graph_ and its logits are on their way to the host
    GraphExec graph_;         // a step of one token with logits
};

}  // namespace dca::cuda
