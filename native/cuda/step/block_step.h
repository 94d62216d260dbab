// Steps of many rows, of one sequence or of many: every matrix is read once for all of them.
#pragma once

#include "cuda/linear/gemm.h"
#include "cuda/step/step.h"

namespace dca::cuda {

struct ExpertRun;

class BlockStep final : public Step {
public:
    explicit BlockStep(StepState& state) : Step(state), gemm_(state.memory.product_workspace) {}

    /// Whether the step is a recording that was played: output() finds its rows normed and their first logits then.
    void set_played(bool played) noexcept { played_ = played; }
    /// Launches what comes to the logits of the rows from `first` on, as many as there is room for, and says how many those are.
    /// The first rows come first: they have all rows normed.
    uint32_t issue_logits(uint32_t first);

    void project_qkv(uint32_t layer) override;
    void store_keys_values(uint32_t layer) override;
    void project_output(uint32_t layer) override;
    void feed_forward(uint32_t layer) override;
    void feed_forward_experts(uint32_t layer) override;
    void output(uint32_t rows, const Read& read) override;

private:
    struct Output {
        void* to;
        uint32_t stride;  // elements
        bool f32;         // else the activations' type
        bool add;
        bool gated = false;  // as in SmallBatchArgs
    };
    /// Every part of `fused` times the kept rows of `in`, which lie back to back.
    void multiply(const FusedMatrices& fused, const void* in, const Output& out);
    void multiply(const Matrix& w, const void* in, const void* bias, const Output& out, uint32_t tokens);

    /// memory_.gated (rows, width) = act(gate) · up of the normed rows.
    void gate(const FusedMatrices& gate_up, uint32_t width);

    /// fused · in, which the next norm adds to x together with the other ranks' (StepState::send_partials).
    void share_product(const FusedMatrices& fused, const std::byte* in, Partial partial);

    // A mixture of experts (block_experts.cpp): every row's experts, and the rows sorted by expert; the experts
    // of a run; the shared one. Each adds to `sum`, x or what is added to it at last.
    void route(const DeviceLayer& w);
    void multiply_experts(const FusedMatrices& fused, const OwnExperts& own_experts, const ExpertRun& run, const std::byte* in,
                          const Output& out);
    void run_experts(const DeviceLayer& w, const ExpertRun& run, float* sum);
    void run_shared_expert(const DeviceLayer& w, float* sum);

    Gemm gemm_;
    bool played_ = false;
};

}  // namespace dca::cuda
