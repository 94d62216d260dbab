// One session on the CPU: its cache, its activations, and the operations of backend.h over them.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "core/backend.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/packed_weights.h"
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
    CpuExecutor(const Hparams& hparams, const Weights& weights, const PackedWeights& packed, const Kernels& kernels, ThreadPool& pool, ExecutorOptions options);

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
        Buffer<float> weights;         // gemm_rows × gemm_stride
        Buffer<float> attention;       // attend_scratch_floats
        Buffer<float> q, out;          // group × (head_dim, lanes)
        Buffer<float> maximum, sum;    // group × lanes
        Buffer<float> cos, sin;        // (n_frequencies, lanes)
        Buffer<float> factor;          // (lanes)
    };

    void set_rows(uint32_t rows, uint32_t start);

    /// Copies `rows` of an activation in panels of `from_lanes` to panels of lanes_.
    void gather(Activation& from, int from_lanes, std::span<const uint32_t> rows, float* to);
    void norm(Activation& from, const std::vector<float>& weight, Activation& to);

    /// Rows [first, first + count) of y = w x, or y += w x, for every panel; y has rows of `y_width` features.
    /// Where w is packed, x is what pack_input was given.
    void multiply_rows(const Tensor& w, int first, int count, const float* x, float* y, int y_width, const float* bias,
                       bool accumulate, Worker& worker);
    /// How w's rows are split into tasks.
    struct RowSpan {
        int first, count;
    };
    int group_rows(const Tensor& w) const noexcept;
    int row_groups(const Tensor& w) const noexcept;
    RowSpan row_group(const Tensor& w, int group) const noexcept;

    /// Makes x (`tokens` of it, in panels) ready for products with those of `readers` that are packed.
    void pack_input(const float* x, int cols, int tokens, std::initializer_list<const Tensor*> readers);
    /// multiply_rows with pack_input's x; `groups` are w's.
    void multiply_packed(const Tensor& w, const std::byte* groups, int first, int count, float* y, int y_width, const float* bias,
                         bool accumulate);

    /// multiply_rows over all of w, spread over the pool.
    void multiply(const Tensor& w, Activation& x, Activation& y, const std::vector<float>& bias, bool accumulate);

    /// gate = silu(w_gate x) · w_up x
    void gated(const Tensor& w_gate, const Tensor& w_up, Activation& x, Activation& gate, Activation& up);

    /// Each kept row's experts and their weights, from the router's logits in router_.
    void route();
    void run_expert(const LayerWeights& w, uint32_t expert);
    void run_shared_expert(const LayerWeights& w);

    /// Fills the worker's cos, sin and factor for `lanes` queries from index `first` on as the keys of `range`
    /// see them; without a range, for keys.
    void load_rotation(Worker& worker, uint32_t first, std::optional<Range> range) const;
    void rotate_queries(Worker& worker, uint32_t kv_head, int panel, uint32_t first_query, Range range);
    void attend_panel(uint32_t layer, uint32_t kv_head, int panel, Worker& worker);
    void attend_rows(uint32_t layer);
    void attend_piece(uint32_t layer, uint32_t kv_head, int row, KeyRange piece, float* partial, Worker& worker);

    /// Runs the output matrix over up to vocab_panels panels from `first` on, into vocab_.
    int output_panels(int first);
    size_t partial_floats() const noexcept;

    const Hparams& h_;
    const Weights& w_;
    const PackedWeights& packed_;
    const Kernels& kernels_;
    ThreadPool& pool_;
    Scheme scheme_;
    RopeTable rope_;
    uint32_t block_;
    int group_;              // query heads of a key head
    KvCache cache_;

    uint32_t rows_ = 0;      // tokens of the step still kept
    uint32_t start_ = 0;     // index of the first of them
    int lanes_ = 1;          // tokens a panel
    int panels_ = 0;

    Activation x_, normed_, q_, k_, v_, a_, gate_, up_;
    Buffer<std::byte> packed_x_;  // a product's input as integers (packed.h)
    int packed_tokens_ = 0;
    Buffer<float> kept_;     // keep_last_rows' way station
    Buffer<float> vocab_;    // (n_vocab, lanes) for a few panels
    Buffer<float> partials_; // attend_rows' pieces
    std::vector<Worker> workers_;

    // Mixtures of experts only.
    struct Routed {
        std::vector<uint32_t> rows;
        std::vector<float> weights;
    };
    Activation router_, gathered_, expert_out_;
    std::vector<Routed> routed_;   // by expert
};

}  // namespace dca::cpu
