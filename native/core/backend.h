// What a machine must be able to do to run a model. The forward pass (core/forward) is written
// once over these operations; a backend owns all memory they work on.
//
// An Executor holds one session's KV cache and activations. A step is: begin, then for every
// layer the operations below in the order forward() calls them, then logits or nll, then end.
// The activations of a step, one row a token:
//   x (n_embd) residual stream · q (n_heads·head_dim) · k, v (n_kv_heads·head_dim)
//   a (n_heads·head_dim) attention's output
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/hparams.h"
#include "core/rope.h"
#include "core/scheme.h"
#include "core/weights.h"
#include "dca.h"

namespace dca {

struct ExecutorOptions {
    uint32_t context = 0;  // capacity of the KV cache, tokens
    dca_cache_type cache_type = DCA_CACHE_F16;
    uint32_t prefill_block = 0;  // rows of a step at most; 0: the backend's choice
    Scheme scheme;
    RopeTable rope;
};

class Executor {
public:
    virtual ~Executor() = default;

    virtual uint32_t prefill_block() const = 0;
    virtual uint64_t cache_bytes() const = 0;
    virtual uint64_t scratch_bytes() const = 0;

    /// Copies the keys and values of the first `length` tokens from another executor of the same backend
    /// and cache type, over what is there. Both have room for them.
    virtual void copy_cache(const Executor& from, uint32_t length) = 0;

    /// Runs the whole step from a recording of an earlier one, if the backend keeps such
    /// (CUDA graphs). False: forward() issues the operations one by one.
    virtual bool replay(std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) {
        static_cast<void>(tokens), static_cast<void>(start), static_cast<void>(wanted);
        return false;
    }

    /// x = embeddings of `tokens`, which stand at indices start, start + 1, ...
    virtual void begin(std::span<const int32_t> tokens, uint32_t start) = 0;

    /// q, k, v = projections of norm(x), with biases and per-head norms where the model has them.
    virtual void project_qkv(uint32_t layer) = 0;

    /// Rotates k at P_k and stores it and v in the cache at the step's indices.
    virtual void store_keys_values(uint32_t layer) = 0;

    /// From here on only the step's last `rows` tokens matter.
    virtual void keep_last_rows(uint32_t rows) = 0;

    /// a = attention of q (rotated here, per key range) over the cache, logits scaled by
    /// logit_factor / sqrt(head_dim).
    virtual void attend(uint32_t layer) = 0;

    /// x += W_o a (+ bias)
    virtual void project_output(uint32_t layer) = 0;

    /// x += W_down (silu(W_gate h) · W_up h), h = norm(x)
    virtual void feed_forward(uint32_t layer) = 0;

    /// The same by a mixture of experts: the router's softmax picks n_experts_used of them.
    virtual void feed_forward_experts(uint32_t layer) = 0;

    /// Logits of all rows kept, to host memory, (rows, n_vocab) f32.
    virtual void logits(float* out) = 0;

    /// out[i] = -log p(targets[i]) after row i of those kept (at most as many), to host memory.
    virtual void nll(std::span<const int32_t> targets, float* out) = 0;

    /// The step's results are in host memory when this returns.
    virtual void end() = 0;
};

/// A model made ready on one machine; shared by its sessions.
class Backend {
public:
    virtual ~Backend() = default;
    virtual std::string description() const = 0;
    /// Memory that weights take which were repacked beside the mapped file.
    virtual uint64_t repacked_bytes() const { return 0; }
    virtual std::unique_ptr<Executor> make_executor(ExecutorOptions options) = 0;
};

/// What a backend is made from. Both outlive it.
struct BackendSource {
    const Hparams& hparams;
    const Weights& weights;
    int32_t threads;        // 0: the physical cores this process may use
    bool repack;            // let the CPU backend repack weights
    dca_progress progress;  // may be null
    void* user;
};

std::unique_ptr<Backend> make_cpu_backend(const BackendSource& source);

}  // namespace dca
