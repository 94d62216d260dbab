// The dozen coarse operations over which the forward pass is written once (forward.h). A machine provides them; of several
// ranks that share a model (exchange.h) each does so for its part.
#pragma once

#include <cstdint>

#include "core/backend/batch.h"

namespace dca {

/// Called in the order in which forward() calls them. The activations of a step, one row a token:
///   x (n_embd) residual stream · q (n_heads·head_dim) · k, v (n_kv_heads·head_dim)
///   a (n_heads·head_dim) attention's output
class Operations {
public:
    virtual ~Operations() = default;

    /// Runs the whole step from a recording of an earlier one, if the backend keeps such
    /// (CUDA graphs). False: forward() issues the operations one by one.
    virtual bool replay(const Batch& batch) {
        static_cast<void>(batch);
        return false;
    }

    /// x = embeddings of the batch's tokens, times embedding_scale, or where layers are shared out what those before gave it.
    /// The batch stays as it is until the step's end.
    virtual void begin(const Batch& batch) = 0;

    /// q, k, v = projections of norm(x), with biases and norms of q and k where the model has them.
    virtual void project_qkv(uint32_t layer) = 0;

    /// Rotates k at P_k and stores it and v in the cache at the rows' indices.
    virtual void store_keys_values(uint32_t layer) = 0;

    /// From here on only the wanted rows of every slice matter; they move together, in order.
    virtual void keep_wanted_rows() = 0;

    /// a = attention of q (rotated here, per key range) over the keys of its own sequence, as far as the layer sees, logits
    /// scaled by logit_factor · attention_scale, then capped where the model caps them, with a sink's share of the softmax
    /// where it has sinks.
    virtual void attend(uint32_t layer) = 0;

    /// x += residual_scale · norm(W_o a (+ bias)); most models have neither the scale nor this norm.
    virtual void project_output(uint32_t layer) = 0;

    /// x += residual_scale · norm(W_down (act(W_gate h) · W_up h)), each product plus its bias where the model has one.
    /// h = norm(x), or what project_qkv read where the blocks are parallel.
    virtual void feed_forward(uint32_t layer) = 0;

    /// The same by a mixture of experts: the router's softmax picks n_experts_used of them.
    virtual void feed_forward_experts(uint32_t layer) = 0;
};

}  // namespace dca
