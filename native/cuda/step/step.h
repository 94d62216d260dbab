// What an executor's steps work on, and the few operations that all of them share.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/backend/backend.h"
#include "cuda/device/device.h"
#include "cuda/device/resources.h"
#include "cuda/kv_cache.h"
#include "cuda/step/prefill_choice.h"
#include "cuda/ranks/exchange.h"
#include "cuda/step/step_input.h"
#include "cuda/weights/weights.h"
#include "cuda/step/work_space.h"

namespace dca::cuda {

/// How a layer attends.
struct LayerAttention {
    AttentionShape shape;
    Scheme scheme;
    RotaryTable rotary;
    AttentionTraits traits;
};

struct StepState {
    StepState(const Hparams& hparams, const DeviceWeights& weights, const Device& device, const EngineSpec& spec);

    const Hparams& h;
    const DeviceWeights& weights;
    Device device;
    AttentionShape shape;
    Scheme scheme, window_scheme;
    WorkSpace memory;
    std::unique_ptr<PrefillChoice> choice;  // null: prefill is dense
    CudaKvCache* cache = nullptr;
    StepInput input;
    Stream stream;

    // Of one rank among several; alone the exchange is null.
    uint32_t rank;
    CudaExchange* exchange;
    Stream post;        // what is sent while products go on
    Event ready, sent;  // partials that may be sent, those that were
    Event logits_sent;  // to the ranks that choose tokens

    const RowGroup* group = nullptr;  // the rows of the step still kept
    uint32_t rows = 0;                // of them
    uint32_t first_row = 0;           // of the activations that is theirs
    bool stored_one = false;          // keys and values of a step of one row, by the kernel before attention

    /// Where the first kept row of an activation is.
    float* x() const noexcept { return memory.x + size_t{first_row} * h.n_embd; }
    std::byte* qkv() const noexcept { return memory.qkv + size_t{first_row} * qkv_width() * 2; }
    uint32_t qkv_width() const noexcept { return h.q_width() + 2 * h.kv_width(); }

    LayerAttention attention_of(uint32_t layer) const;

    /// The kept rows of x, normed, to memory.normed in the activations' type; 1 / rms(x) of each to `factors` if set. Without
    /// weights they are only rounded.
    void norm(const DeviceNorm& of, float* factors = nullptr);

    /// Where a block's result goes: straight into x, or into memory.branch where a norm or a scale comes before it is added, or
    /// where the other block still reads x. Among ranks it is this one's part of a sum.
    struct Sum {
        float* to;
        bool add;
    };
    Sum attention_sum(const DeviceLayer& w) const noexcept {
        if (shared()) return {reinterpret_cast<float*>(partials(Partial::Attention)), false};
        return adds_directly(w.attention_post_norm) ? Sum{x(), true} : Sum{memory.branch, false};
    }
    Sum ffn_sum(const DeviceLayer& w) const noexcept {
        if (shared()) return {reinterpret_cast<float*>(partials(Partial::FeedForward)), false};
        return adds_directly(w.ffn_post_norm) ? Sum{x(), true} : Sum{memory.branch, h.norms == Norms::Parallel};
    }
    /// Adds to x what attention or the feed-forward left where attention_sum() or ffn_sum() said, unless it did so itself.
    void end_attention(const DeviceLayer& w);
    void end_ffn(const DeviceLayer& w);

    /// Logits that a product left in memory.logits, scaled and capped where the model does.
    void finish_logits(uint32_t rows);

    /// From here on only the input's kept rows are worked on.
    void keep_wanted_rows();

    /// Norms every query and key head of the kept rows, where the model does.
    void norm_heads(const DeviceLayer& w);

    /// Stores all rows' keys and values.
    void store_keys_values(uint32_t layer);

    /// Codes the keys of pages that the step has filled anew, where the cache wants that.
    void settle_pages();

    /// memory.attended = attention of the kept rows' queries: one call for all rows that are alone in their
    /// sequence, one for each longer slice.
    void attend(uint32_t layer);

    /// Whether what a block adds to x is a sum over ranks.
    bool shared() const noexcept { return exchange != nullptr; }
    std::byte* partials(Partial partial) const noexcept { return memory.ranks.partial[static_cast<uint32_t>(partial)]; }

    /// Whether a block's result, which this norm follows (null: none), is added to x by the norm that reads x next: then its
    /// rows are sent (send_partials), and nothing else is to be done. So it is among ranks in most models.
    bool sums_while_norming(const float* post_norm) const noexcept {
        return shared() && adds_directly(post_norm) && h.norm == NormKind::Rms;
    }
    /// Rows [first, first + count) of the kept ones have their partials, in the activations' type. Once all have, they are
    /// `pending`: the next norm adds them to x.
    void send_partials(Partial partial, uint32_t first, uint32_t count);
    std::optional<Partial> pending;

    /// Whether what is launched is recorded.
    bool recording() const;

    /// Every kept row's experts and their weights from the router's logits, which are multiplied by `factors`
    /// (a row; null: none) first.
    void choose_experts(const DeviceLayer& w, const float* factors);

    /// Everything launched so far has run when this returns.
    void wait() const { check(cudaStreamSynchronize(stream.get()), "running the model"); }

private:
    bool adds_directly(const float* post_norm) const noexcept {
        return post_norm == nullptr && h.residual_scale == 1.0f && h.norms != Norms::Parallel;
    }
    void add_branch(const float* post_norm);
    /// The ranks' partials are summed into x, or where something comes before that into memory.branch, which holds another
    /// block's result already or (`fresh`) nothing.
    void sum_partials(Partial partial, const float* post_norm, bool fresh);
    void add_and_norm(const NormArgs& norm);
};

/// The operations of core/backend/backend.h between begin() and end(), for one kind of step.
class Step {
public:
    explicit Step(StepState& state) : state_(state), h_(state.h), weights_(state.weights), memory_(state.memory) {}
    virtual ~Step() = default;

    virtual void project_qkv(uint32_t layer) = 0;
    virtual void store_keys_values(uint32_t layer) = 0;
    virtual void project_output(uint32_t layer) = 0;
    virtual void feed_forward(uint32_t layer) = 0;
    virtual void feed_forward_experts(uint32_t layer) = 0;

    /// Logits of the first `rows` rows kept, as many at a time as fit: read(first, count) takes those of rows
    /// [first, first + count) from memory_.logits, on the same stream.
    using Read = std::function<void(uint32_t first, uint32_t count)>;
    virtual void output(uint32_t rows, const Read& read) = 0;

protected:
    StepState& state_;
    const Hparams& h_;
    const DeviceWeights& weights_;
    const WorkSpace& memory_;
};

}  // namespace dca::cuda
