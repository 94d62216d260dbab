// Steps on the CPU: the activations, and the operations of backend.h over them and a cache.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "core/backend/backend.h"
#include "core/ranks/host_exchange.h"
#include "core/backend/operations.h"
#include "cpu/buffer.h"
#include "cpu/executor/budget_unit.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/packed_weights.h"
#include "cpu/page_selection.h"
#include "cpu/panel_shape.h"
#include "cpu/thread_pool.h"

namespace dca::cpu {

// Scores are kept times log2(e), so that the softmax is in powers of two.
constexpr float kLog2E = 1.4426950408889634f;

/// One kind of activation of a step in panels (kernels.h): panel p starts at p · width · lanes.
struct Activation {
    Buffer<float> memory;
    int width = 0;

    Activation() = default;
    Activation(int width, size_t rows) : memory(width * rows), width(width) {}
    float* panel(int p, int lanes) noexcept { return memory.data() + static_cast<size_t>(p) * width * lanes; }
};

class CpuExecutor final : public Executor, public Operations {
public:
    CpuExecutor(const Hparams& hparams, const Weights& weights, const PackedWeights& packed, const Kernels& kernels, ThreadPool& pool,
                CpuKvCache& cache, EngineSpec spec);

    uint32_t max_rows() const override { return max_rows_; }
    uint32_t max_slices() const override { return max_rows_; }
    uint64_t scratch_bytes() const override;

    void run(const Batch& batch) override;
    void begin(const Batch& batch) override;
    void project_qkv(uint32_t layer) override;
    void store_keys_values(uint32_t layer) override;
    void keep_wanted_rows() override;
    void attend(uint32_t layer) override;
    void project_output(uint32_t layer) override;
    void feed_forward(uint32_t layer) override;
    void feed_forward_experts(uint32_t layer) override;
    void logits(std::span<float* const> out) override;
    void score(std::span<const int32_t> targets, TokenScore* out) override;
    void sample(std::span<SampleRequest* const> requests) override;
    void end() override;
    void density(std::span<float> out) const override;
    std::vector<uint32_t> selection() const override { return selection_.words(); }
    bool collect(ColumnSquares& squares) override {
        squares_ = &squares;
        return true;
    }

    /// Rows of a step where the caller does not say.
    static uint32_t rows_of(const EngineSpec& spec) noexcept {
        constexpr uint32_t usual = 512;
        return std::min(spec.max_rows != 0 ? spec.max_rows : usual, spec.tokens);
    }
    /// What an executor of so many rows takes, but for the rotation table and what grows with use.
    static uint64_t bytes_for(const Hparams& hparams, uint32_t max_rows);

private:
    /// Scratch that each worker has for itself.
    struct Worker {
        Buffer<float> weights;       // kGemmRows × kGemmStride
        Buffer<float> attention;     // attend_scratch_floats
        Buffer<float> gathered;      // group × (head_dim, lanes): queries whose rows are no panel
        Buffer<float> q, out;        // group × (head_dim, lanes)
        Buffer<float> maximum, sum;  // group × lanes
        Buffer<float> cos, sin;      // (n_frequencies, lanes)
        Buffer<float> factor;        // (lanes)
        PageChoice choice;
        LineScratch lines;
        std::vector<PairCount> pairs;  // (n_layers, n_heads), of sparse prefill and stated budgets
    };

    /// Copies `rows` of an activation in panels of `from_shape` to panels of `to_shape`, which has as many.
    void gather(Activation& from, PanelShape from_shape, std::span<const uint32_t> rows, PanelShape to_shape, float* to);
    void norm(Activation& from, const std::vector<float>& weight, const std::vector<float>& bias, Activation& to);
    /// `from` normed into normed_, or `from` itself where the model has no norm there.
    Activation& normed(Activation& from, const std::vector<float>& weight, const std::vector<float>& bias);
    void norm_heads(Activation& heads, const std::vector<float>& weight);

    /// Where a block's result goes: straight into x_, or into branch_ where the sum over ranks, a norm or a scale comes before
    /// it is added.
    bool adds_directly(const std::vector<float>& post_norm) const noexcept {
        return exchange_ == nullptr && post_norm.empty() && h_.residual_scale == 1.0f;
    }
    /// multiply(w, x) + bias as such a block's result, added to x_.
    void add_product(const Tensor& w, Activation& x, const std::vector<float>& bias, const std::vector<float>& post_norm);
    void add_branch(const std::vector<float>& post_norm);

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
    static Output output(Activation& y, std::span<const float> bias = {}, bool accumulate = false) {
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

    /// Adds the squares of x to what squares_ holds of the readers.
    void add_squares(const float* x, int cols, PanelShape shape, std::initializer_list<const Tensor*> readers);

    /// `span` of the rows of a product with w, for every panel.
    void multiply_rows(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker);
    void multiply_packed(const Tensor& w, const std::byte* groups, RowSpan span, const Input& in, const Output& out);
    void multiply_vectors(const Tensor& w, RowSpan span, const Input& in, const Output& out);
    void multiply_panels(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker);

    /// multiply_rows over all of w, spread over the pool.
    void multiply(const Tensor& w, const Input& in, const Output& out);

    /// gate_ = activation(w_gate x) · w_up x, each product plus its bias; up_ is scratch. The result is as wide as w_gate has rows.
    void gated(const Tensor& w_gate, const Tensor& w_up, Activation& x, PanelShape shape, std::span<const float> gate_bias = {},
               std::span<const float> up_bias = {});

    /// Each kept row's experts and their weights, from the router's logits in router_.
    void route();
    void run_expert(const LayerWeights& w, Activation& x, uint32_t expert, Activation& sum);
    void run_shared_expert(const LayerWeights& w, Activation& x, Activation& sum);

    /// A slice's rows that attend together: up to a panel of them, or one to a piece of its keys.
    struct AttentionBlock {
        const SliceRows* slice;
        uint32_t first_row, rows;   // of the slice
        uint64_t cost;              // about: keys times rows
        KeyRange span{};            // of a row: the piece's keys
        int piece = 0, pieces = 0;  // of a row: which of how many; 0: a panel
        size_t partial = 0;         // of a row: where in partials_ the piece's key heads are
        bool sparse = false;        // of a panel: it reads chosen pages only
    };
    /// How so many rows lie in panels.
    PanelShape shape_of(uint32_t rows) const noexcept;
    /// How layers of one kind attend, and how a step's attention is cut up for them.
    struct Reach {
        Scheme scheme;
        RopeTable rope;
        uint32_t window = 0;  // 0: none
        std::vector<AttentionBlock> blocks = {};
        std::vector<AttentionBlock> merges = {};  // the first piece of every row
    };
    Reach& reach_of(uint32_t layer) noexcept { return h_.layers[layer].windowed ? windowed_ : whole_; }

    void set_slices(std::span<const SliceRows> slices);
    void plan_attention(Reach& reach);

    /// Fills the worker's cos, sin and factor for the queries at indices[0 .. count) as the keys of `range` see them, or,
    /// without a range, for keys; the last one is repeated in lanes without one.
    void load_rotation(Worker& worker, const Reach& reach, const uint32_t* indices, int count, int lanes, std::optional<Range> range) const;
    int n_frequencies(uint32_t layer) noexcept;
    /// The query heads of a key head of rows [row, row + count): group × (head_dim, lanes).
    const float* query_heads(uint32_t kv_head, uint32_t row, int count, int lanes, Worker& worker);
    /// q, as query_heads gives it, rotated into worker.q.
    void rotate_queries(const float* q, uint32_t layer, const uint32_t* indices, int count, int lanes, Range range, Worker& worker);
    /// The softmax of `lanes` queries before any key: empty, or with the sink's share where the layer has sinks. (A row's
    /// sink counts in one of its pieces.)
    void start_softmax(uint32_t layer, uint32_t kv_head, int lanes, float* maximum, float* sum, bool sink) const;
    /// Codes the keys of pages that the step has filled anew, where the cache wants that.
    void settle_pages();
    /// The cache as a slice's keys from index `first` on are read, up to the end of the page where that is a fresh one.
    CacheView view_of(const SliceRows& slice, uint32_t first, uint32_t layer, uint32_t kv_head) const noexcept;
    void attend_panel(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Worker& worker);
    void attend_keys(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, KeyRange span, int64_t shift, Distances seen,
                     const uint8_t* heads, Worker& worker);
    void attend_piece(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Worker& worker);
    void merge_pieces(const AttentionBlock& first);

    // Sparse prefill (sparse.cpp).
    /// The step's keys are about to be written: what pages know of their means is settled for it.
    void prepare_means();
    /// The means of pages that the step filled.
    void store_means(uint32_t layer);
    void compute_means(uint32_t layer, uint32_t kv_head, uint32_t index, uint32_t page);
    /// What queries [begin, end) of a block, all of one chunk, read; into worker.choice. q as query_heads gives it.
    void choose_pages(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, const float* q, uint32_t begin, uint32_t end,
                      Worker& worker);
    void score_range(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Range range, KeyRange keys, uint32_t own,
                     Worker& worker);
    /// Counts what queries [begin, end) read of what they see, and records their pages if they chose some.
    void note_choice(uint32_t layer, uint32_t kv_head, bool sparse, uint32_t begin, uint32_t end, Worker& worker);

    // Stated budgets (stated.cpp).
    /// What chooses together in this step, with the scratch for it.
    void plan_units();
    void prepare_unit(BudgetUnit& unit);
    /// Every unit's columns and diagonals, for all heads.
    void choose_lines(uint32_t layer);
    void choose_lines(uint32_t layer, uint32_t head, BudgetUnit& unit, Worker& worker);
    template <class Visit>
    void score_keys(uint32_t layer, uint32_t head, const BudgetUnit& unit, Worker& worker, Visit visit);
    void rotate_choosing(uint32_t layer, uint32_t head, const BudgetUnit& unit, uint32_t range, Worker& worker);
    /// The keys that queries [begin, end) of a block, all of one chunk, read, into worker.lines; and counts them.
    void find_lines(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, uint32_t begin, uint32_t end, Worker& worker);
    void attend_lines(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Range range, KeyRange keys, Worker& worker);
    void attend_gathered(const CacheView& view, int count, Worker& worker);

    /// Copies logits of `part`'s rows, which lie in vocab_, row by row.
    void copy_logits(PanelShape part, std::span<float* const> out);
    /// Runs the output matrix over a few panels from `first` on, into vocab_. Returns what they hold.
    PanelShape output_panels(int first);
    size_t partial_floats() const noexcept;

    const Hparams& h_;
    const Weights& w_;
    const PackedWeights& packed_;
    const Kernels& kernels_;
    ThreadPool& pool_;
    PrefillSpec prefill_;
    Reach whole_, windowed_;
    uint32_t max_rows_;
    int group_;  // query heads of a key head
    uint32_t rank_;
    HostExchange* exchange_;  // with the other ranks; null: there are none
    CpuExecutor* previous_;   // whose x_ this one goes on with; null: it starts with tokens
    bool last_;               // its last layer is the model's
    CpuKvCache& cache_;
    bool turned_;  // keys and values are kept turned by Hadamard matrices, so queries are turned too and outputs turned back
    ColumnSquares* squares_ = nullptr;  // null: nobody asked

    PanelShape shape_;  // of the step's rows still kept
    std::span<const Slice> batch_;
    std::vector<SliceRows> slices_;
    std::vector<uint32_t> indices_;  // (rows) in their sequences
    std::vector<uint32_t> places_;   // (rows) where the cache holds their keys: page · kPageTokens + index % kPageTokens
    struct FilledPage {
        uint32_t index, page;  // of the sequence, of the cache
    };
    std::vector<FilledPage> filled_;  // by the step, of sequences that read means
    std::vector<BudgetUnit> units_;   // of the step, where budgets are stated
    SelectionRecord selection_;

    Activation x_, normed_, q_, k_, v_, a_, gate_, up_;
    Activation branch_;           // a block's result where it is not added to x_ as it is
    Buffer<std::byte> packed_x_;  // a product's input as integers (packed.h)
    Buffer<float> kept_;          // keep_wanted_rows' way station
    Buffer<float> vocab_;         // (n_vocab, lanes) for a few panels
    Buffer<float> sampled_;       // (rows, n_vocab) logits that sample() chooses from
    Buffer<float> partials_;      // attention blocks of one row
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
