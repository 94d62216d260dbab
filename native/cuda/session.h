// One session on a card: what its steps work on, and the few operations that all of them share.
#pragma once

#include "core/backend/backend.h"
#include "cuda/device/device.h"
#include "cuda/device/resources.h"
#include "cuda/session_memory.h"
#include "cuda/weights/weights.h"

namespace dca::cuda {

struct CudaSession {
    CudaSession(const Hparams& hparams, const DeviceWeights& weights, const Device& device, const EngineSpec& spec);

    const Hparams& h;
    const DeviceWeights& weights;
    Device device;
    AttentionShape shape;
    Scheme scheme;
    SessionMemory memory;
    Stream stream;

    uint32_t rows = 0;       // tokens of the step still kept
    uint32_t first_row = 0;  // how many of its first ones are not
    uint32_t start = 0;      // index of the first token kept

    /// Where the first kept row of an activation is.
    float* x() const noexcept { return memory.x + size_t{first_row} * h.n_embd; }
    std::byte* qkv() const noexcept { return memory.qkv + size_t{first_row} * qkv_width() * 2; }
    uint32_t qkv_width() const noexcept { return h.q_width() + 2 * h.kv_width(); }

    /// Norms every query and key head of the kept rows, where the model does.
    void norm_heads(const DeviceLayer& w);

    /// Stores the kept rows' keys and values. With `length` (device memory) not null, the last one's index is
    /// one less than what stands there, whatever `start` is.
    void store_keys_values(uint32_t layer, const uint32_t* length);

    /// Every kept row's experts and their weights from the router's logits, which are multiplied by `factors`
    /// (a row; null: none) first.
    void choose_experts(const DeviceLayer& w, const float* factors);

    /// Everything launched so far has run when this returns.
    void wait() const { check(cudaStreamSynchronize(stream.get()), "running the model"); }
};

/// The operations of core/backend/backend.h between begin() and end(), for one kind of step.
class Step {
public:
    explicit Step(CudaSession& session) : session_(session), h_(session.h), weights_(session.weights), memory_(session.memory) {}
    virtual ~Step() = default;

    virtual void project_qkv(uint32_t layer) = 0;
    virtual void store_keys_values(uint32_t layer) = 0;
    virtual void attend(uint32_t layer) = 0;
    virtual void project_output(uint32_t layer) = 0;
    virtual void feed_forward(uint32_t layer) = 0;
    virtual void feed_forward_experts(uint32_t layer) = 0;
    virtual void logits(float* out) = 0;
    /// To memory_.nll; targets are in memory_.targets.
    virtual void nll(uint32_t n_targets) = 0;

protected:
    CudaSession& session_;
    const Hparams& h_;
    const DeviceWeights& weights_;
    const SessionMemory& memory_;
};

}  // namespace dca::cuda
