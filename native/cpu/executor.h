// One session on the CPU: its cache, its activations, and the operations of backend.h over them.
#pragma once

#include <initializer_list>
#include <span>
#include <vector>

#include "core/backend.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/packed_weights.h"
#include "cpu/panel_shape.h"
#include "cpu/thread_pool.h"

namespace dca::cpu {

/// One kind of activation of a step in panels (kernels.h): panel p starts at p · width · lanes.
struct Activation {
    Buffer<float> memory;
    int width = 0;

    Activation() = default;
    Activation(int width, size_t rows) : memory(width * rows), width(width) {}
    float* panel(int p, int lanes) noexcept { return memory.data() + size_t(p) * width * lanes; }
};

class CpuExecutor final : public Executor {
public:
    CpuExecutor(const Hparams& hparams, const Weights& weights, const PackedWeights& packed, const Kernels& kernels, ThreadPool& pool,
                ExecutorOptions options);

    uint32_t prefill_block() const override { return block_; }
    uint64_t cache_bytes() const override { return cache_.bytes(); }
    uint64_t scratch_bytes() const override;

    void copy_cache(const Executor& from, uint32_t length) override;
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
    void end() override {}

private:
    /// Scratch that each worker has for itself.
    struct Worker {
        Buffer<float> weights;       // gemm_rows × gemm_stride
        Buffer<float> attention;     // attend_scratch_floats
        Buffer<float> q, out;        // group × (head_dim, lanes)
        Buffer<float> maximum, sum;  // group × lanes
        Buffer<float> cos, sin;      // (n_frequencies, lanes)
        Buffer<float> factor;        // (lanes)
    };

    enum class QueryPosition { Key, Intra, Successive, Inter };

    /// Copies `rows` of an activation in panels of `from_shape` to panels of `to_shape`, which has as many.
    void gather(Activation& from, PanelShape from_shape, std::span<const uint32_t> rows, PanelShape to_shape, float* to);
    void norm(Activation& from, const std::vector<float>& weight, Activation& to);

    /// What a product reads.
    struct Input {
        const float* values;      // panels of (cols, lanes)
        const std::byte* packed;  // the same as integers (packed.h); null where no matrix that reads it is packed
        PanelShape shape;
    };
    /// What it writes: y = w x + bias, or y += w x + bias, in panels of (width, lanes).
    struct Output {
        float* values;
        int width;
        const float* bias = nullptr;  // (width) or null
        bool accumulate = false;
    };
    static Output output(Activation& y, const std::vector<float>& bias = {}, bool accumulate = false) {
        return {y.memory.data(), y.width, bias.empty() ? nullptr : bias.data(), accumulate};
    }
    /// Rows [first, first + count) of a matrix: one task's.
    struct RowSpan {
        int first, count;
    };
    int group_rows(const Tensor& w, PanelShape shape) const noexcept;
    int row_groups(const Tensor& w, PanelShape shape) const noexcept;
    RowSpan row_group(const Tensor& w, PanelShape shape, int group) const noexcept;

    /// x (cols wide) as the input of products with `readers`. One at a time: the next call reuses packed_x_.
    Input make_input(const float* x, int cols, PanelShape shape, std::initializer_list<const Tensor*> readers);

    /// `span` of the rows of a product with w, for every panel.
    void multiply_rows(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker);
    void multiply_packed(const Tensor& w, const std::byte* groups, RowSpan span, const Input& in, const Output& out);
    void multiply_vectors(const Tensor& w, RowSpan span, const Input& in, const Output& out);
    void multiply_panels(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker);

    /// multiply_rows over all of w, spread over the pool.
    void multiply(const Tensor& w, const Input& in, const Output& out);

    /// gate_ = silu(w_gate x) · w_up x; up_ is scratch. The result is as wide as w_gate has rows.
    void gated(const Tensor& w_gate, const Tensor& w_up, Activation& x, PanelShape shape);

    /// Each kept row's experts and their weights, from the router's logits in router_.
    void route();
    void run_expert(const LayerWeights& w, uint32_t expert);
    void run_shared_expert(const LayerWeights& w);

    /// Fills the worker's cos and sin for `lanes` queries (or keys) from index `first` on.
    void load_rotation(Worker& worker, uint32_t first, QueryPosition kind) const;
    void rotate_queries(Worker& worker, uint32_t kv_head, int panel, uint32_t first_query, QueryPosition kind);
    void attend_panel(uint32_t layer, uint32_t kv_head, int panel, Worker& worker);
    void attend_rows(uint32_t layer);
    void attend_piece(uint32_t layer, uint32_t kv_head, int row, KeySpan piece, float* partial, Worker& worker);

    /// Runs the output matrix over up to vocab_panels panels from `first` on, into vocab_. Returns what they hold.
    PanelShape output_panels(int first);
    size_t partial_floats() const noexcept;

    const Hparams& h_;
    const Weights& w_;
    const PackedWeights& packed_;
    const Kernels& kernels_;
    ThreadPool& pool_;
    Scheme scheme_;
    RopeTable rope_;
    uint32_t block_;
    int group_;  // query heads of a key head
    KvCache cache_;

    PanelShape shape_;    // of the step's tokens still kept
    uint32_t start_ = 0;  // index of the first of them

    Activation x_, normed_, q_, k_, v_, a_, gate_, up_;
    Buffer<std::byte> packed_x_;  // a product's input as integers (packed.h)
    Buffer<float> kept_;          // keep_last_rows' way station
    Buffer<float> vocab_;         // (n_vocab, lanes) for a few panels
    Buffer<float> partials_;      // attend_rows' pieces
    std::vector<Worker> workers_;

    // Mixtures of experts only.
    struct Routed {
        std::vector<uint32_t> rows;
        std::vector<float> weights;
    };
    Activation router_, gathered_, expert_out_;
    std::vector<Routed> routed_;  // by expert
};

}  // namespace dca::cpu
