// Steps of one token, and the last layer of a step of which one row is kept: kernels made for one row.
//
// They take the token and its index from memory, so that a recording of them (a CUDA graph) serves every
// later step of one token. One token's experts stay on the card: kernels with a fixed grid read from its
// memory which they are.
#pragma once

#include "cuda/linear/matvec.h"
#include "cuda/step/step.h"

namespace dca::cuda {

class RowStep final : public Step {
public:
    explicit RowStep(StepState& state) : Step(state) {}

    /// Whether the step is a recording that was played: its logits are in memory_.logits then.
    void set_played(bool played) noexcept { played_ = played; }
    /// Launches the product that output() reads.
    void issue_logits();

    void project_qkv(uint32_t layer) override;
    void store_keys_values(uint32_t layer) override;
    void project_output(uint32_t layer) override;
    void feed_forward(uint32_t layer) override;
    void feed_forward_experts(uint32_t layer) override;
    void output(uint32_t rows, const Read& read) override;

private:
    struct Input {
        const void* from;
        VectorType type;
        const float* norm;  // null: none
    };
    struct Output {
        void* to;
        VectorType type;
        bool add;
    };
    /// The row of x, normed: as the product reads it, where that can, or else beforehand.
    Input normed(const DeviceNorm& norm);
    MatvecArgs product(const Matrix& w, const Input& in, const Output& out) const noexcept;
    /// Every part of `fused` times the row.
    void multiply(const FusedMatrices& fused, const Input& in, const Output& out);
    /// Whether one kernel can project q, k and v and put k and v into the cache.
    bool stores_while_projecting(const DeviceLayer& w) const noexcept;
    void project_and_store(uint32_t layer);
    /// memory_.gated_row (width) = act(gate · in) · up · in
    void gate(const FusedMatrices& gate_up, const Input& in, uint32_t width);
    /// The matrices of the row's experts, each times its vector.
    void multiply_chosen(const FusedMatrices& fused, const OwnExperts& own, const Input& in, uint32_t in_apart, float* out,
                         uint32_t out_apart, bool gated);

    VectorType activation_type() const noexcept { return weights_.dtype() == Dtype::F16 ? VectorType::F16 : VectorType::BF16; }

    bool played_ = false;
};

}  // namespace dca::cuda
