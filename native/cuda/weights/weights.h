// A model's weights in the memory of one card.
#pragma once

#include <cstdint>
#include <vector>

#include "core/backend/backend.h"
#include "cuda/device/dtype.h"
#include "cuda/device/resources.h"
#include "cuda/weights/own_experts.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

/// Matrices that multiply the same vector, their outputs one after another: one matrix where the
/// file's types agree, else several.
struct FusedMatrices {
    std::vector<Matrix> parts;
    uint32_t rows = 0;        // of all parts
    float* bias = nullptr;    // (rows), of experts (n_experts, rows); null: none
    void* bias_16 = nullptr;  // the same in the activations' type

    bool merged() const noexcept { return parts.size() == 1; }
};

/// Rows of a router's matrix on the device: a logit each expert, one for the shared expert's gate, zeros
/// up to a multiple of eight, which cuBLASLt likes best.
constexpr uint32_t router_rows(uint32_t n_experts) { return (n_experts + 1 + 7) / 8 * 8; }

/// A norm's weights; null: there is no norm, or no bias.
struct DeviceNorm {
    float* weight = nullptr;  // (width)
    float* bias = nullptr;
};

struct DeviceLayer {
    DeviceNorm attention_norm;
    FusedMatrices qkv;
    float* q_norm;  // as LayerWeights has it, null: none
    float* k_norm;
    uint32_t head_norm_step;  // from a head's weights to the next one's: 0 if all share them
    float* sinks;             // (n_heads), null: none
    FusedMatrices output;
    float* attention_post_norm;  // (n_embd), null: none
    DeviceNorm ffn_norm;         // of parallel blocks the other's
    FusedMatrices gate_up;       // of a mixture: of the first own expert, the others behind it (expert_matrix)
    FusedMatrices down;
    float* ffn_post_norm;  // (n_embd), null: none

    // Of a mixture; otherwise null and without parts.
    float* router = nullptr;       // (router_rows, n_embd), ffn_norm multiplied in: it takes x before the norm
    float* router_bias = nullptr;  // (n_experts), null: none
    OwnExperts own_experts{};      // whose matrices gate_up and down hold
    bool shared_gated = false;     // the shared expert has a logit of its own, row n_experts
    FusedMatrices shared_gate_up, shared_down;
};

class DeviceWeights {
public:
    /// Uploads everything. Throws a memory error before allocating if it does not fit.
    explicit DeviceWeights(const BackendSource& source);

    Dtype dtype() const noexcept { return dtype_; }
    bool quantised() const noexcept { return quantised_; }
    uint64_t bytes() const noexcept { return bytes_; }

    const Matrix& token_embedding() const noexcept { return token_embedding_; }
    const std::vector<DeviceLayer>& layers() const noexcept { return layers_; }
    const DeviceNorm& output_norm() const noexcept { return output_norm_; }
    const FusedMatrices& output() const noexcept { return output_; }

    /// Every matrix that a decode step multiplies with.
    template <class Visit>
    void visit_products(Visit&& visit) const {
        const auto each = [&](const FusedMatrices& fused) {
            for (const Matrix& part : fused.parts) visit(part);
        };
        for (const DeviceLayer& layer : layers_) {
            each(layer.qkv);
            each(layer.output);
            each(layer.gate_up);
            each(layer.down);
            each(layer.shared_gate_up);
            each(layer.shared_down);
        }
        each(output_);
    }

private:
    friend class WeightPlacement;

    Dtype dtype_;
    bool quantised_ = false;
    uint64_t bytes_ = 0;
    DeviceMemory memory_;
    Matrix token_embedding_;
    std::vector<DeviceLayer> layers_;
    DeviceNorm output_norm_;
    FusedMatrices output_;
};

}  // namespace dca::cuda
