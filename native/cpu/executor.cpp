#include "cpu/executor.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace dca::cpu {

namespace {

constexpr uint32_t default_block = 512;
constexpr int decode_tasks_a_thread = 2;
constexpr int decode_rows = 512;           // of weights that one call of a kernel walks
constexpr uint32_t fewest_for_panels = 4;  // fewer rows run one by one at matrix-vector speed

size_t padded(uint32_t rows) { return (size_t{rows} + panel_lanes - 1) / panel_lanes * panel_lanes; }

}  // namespace

CpuExecutor::CpuExecutor(const Hparams& hparams, const Weights& weights, const PackedWeights& packed, const Kernels& kernels, ThreadPool& pool,
                         ExecutorOptions options)
    : h_(hparams),
      w_(weights),
      packed_(packed),
      kernels_(kernels),
      pool_(pool),
      scheme_(options.scheme),
      rope_(std::move(options.rope)),
      block_(std::min(options.prefill_block != 0 ? options.prefill_block : default_block, options.context)),
      group_(static_cast<int>(hparams.n_heads / hparams.n_kv_heads)),
      cache_(hparams.n_layers, hparams.n_kv_heads, hparams.head_dim, options.context, options.cache_type) {
    const size_t rows = padded(block_);
    const auto activation = [&](uint32_t width) { return Activation(static_cast<int>(width), rows); };
    x_ = activation(h_.n_embd);
    normed_ = activation(h_.n_embd);
    q_ = activation(h_.q_width());
    k_ = activation(h_.kv_width());
    v_ = activation(h_.kv_width());
    a_ = activation(h_.q_width());
    const uint32_t n_ff = std::max({h_.n_ff, h_.n_ff_expert, h_.n_ff_shared});
    gate_ = activation(n_ff);
    up_ = activation(n_ff);
    if (kernels_.packed != nullptr) {
        const uint32_t widest = std::max({h_.n_embd, h_.q_width(), n_ff});
        packed_x_ = Buffer<std::byte>(packed_token_bytes(static_cast<int>(rows), widest));
    }
    kept_ = Buffer<float>(rows * std::max(h_.n_embd, h_.q_width()));

    if (h_.n_experts != 0) {
        router_ = activation(h_.n_experts);
        gathered_ = activation(h_.n_embd);
        expert_out_ = activation(h_.n_embd);
        routed_.resize(h_.n_experts);
    }

    const size_t head_panels = size_t(group_) * h_.head_dim * panel_lanes;
    workers_.resize(pool_.threads());
    for (Worker& worker : workers_) {
        worker.weights = Buffer<float>(size_t{gemm_rows} * gemm_stride);
        worker.attention = Buffer<float>(attend_scratch_floats(group_, static_cast<int>(h_.head_dim)));
        worker.q = Buffer<float>(head_panels);
        worker.out = Buffer<float>(head_panels);
        worker.maximum = Buffer<float>(size_t(group_) * panel_lanes);
        worker.sum = Buffer<float>(size_t(group_) * panel_lanes);
        worker.cos = Buffer<float>(size_t{rope_.n_frequencies} * panel_lanes);
        worker.sin = Buffer<float>(size_t{rope_.n_frequencies} * panel_lanes);
        worker.factor = Buffer<float>(panel_lanes);
    }
}

uint64_t CpuExecutor::scratch_bytes() const {
    uint64_t bytes = packed_x_.bytes() + kept_.bytes() + vocab_.bytes() + partials_.bytes() + (rope_.cos.size() + rope_.sin.size()) * sizeof(float);
    for (const Activation* activation : {&x_, &normed_, &q_, &k_, &v_, &a_, &gate_, &up_, &router_, &gathered_, &expert_out_}) bytes += activation->memory.bytes();
    for (const Worker& worker : workers_) {
        for (const Buffer<float>* buffer : {&worker.weights, &worker.attention, &worker.q, &worker.out, &worker.maximum,
                                            &worker.sum, &worker.cos, &worker.sin, &worker.factor}) {
            bytes += buffer->bytes();
        }
    }
    return bytes;
}

void CpuExecutor::set_rows(uint32_t rows, uint32_t start) {
    rows_ = rows;
    start_ = start;
    lanes_ = rows < fewest_for_panels ? 1 : panel_lanes;
    panels_ = static_cast<int>((rows + lanes_ - 1) / lanes_);
}

void CpuExecutor::copy_cache(const Executor& from, uint32_t length) {
    cache_.copy_from(static_cast<const CpuExecutor&>(from).cache_, length);
}

void CpuExecutor::begin(std::span<const int32_t> tokens, uint32_t start) {
    set_rows(static_cast<uint32_t>(tokens.size()), start);
    const Tensor& table = w_.token_embedding;
    pool_.run(panels_, [&](int p, int) {
        float* panel = x_.panel(p, lanes_);
        for (int lane = 0; lane < lanes_; ++lane) {
            const size_t row = size_t(p) * lanes_ + lane;
            alignas(64) float piece[512];  // a multiple of every block size
            for (int64_t f = 0; f < table.cols; f += 512) {
                const int64_t count = std::min<int64_t>(512, table.cols - f);
                if (row < tokens.size()) {
                    const BlockInfo& info = block_info(table.type);
                    const std::byte* blocks = table.data + tokens[row] * table.row_bytes() + f / info.block_size * info.block_bytes;
                    decode_blocks(table.type, blocks, count, piece);
                } else {
                    std::fill_n(piece, count, 0.0f);
                }
                for (int64_t i = 0; i < count; ++i) panel[(f + i) * lanes_ + lane] = piece[i];
            }
        }
    });
}

void CpuExecutor::gather(Activation& from, int from_lanes, std::span<const uint32_t> rows, float* to) {
    const int panels = static_cast<int>((rows.size() + lanes_ - 1) / lanes_);
    pool_.run(panels, [&](int p, int) {
        float* out = to + size_t(p) * from.width * lanes_;
        for (int lane = 0; lane < lanes_; ++lane) {
            const size_t at = size_t(p) * lanes_ + lane;
            // Lanes past the last row repeat it: any finite value will do.
            const uint32_t row = rows[std::min(at, rows.size() - 1)];
            const float* in = from.panel(static_cast<int>(row / from_lanes), from_lanes) + row % from_lanes;
            for (int f = 0; f < from.width; ++f) out[size_t(f) * lanes_ + lane] = in[size_t(f) * from_lanes];
        }
    });
}

void CpuExecutor::keep_last_rows(uint32_t rows) {
    if (rows == rows_) return;
    const uint32_t dropped = rows_ - rows;
    const int old_lanes = lanes_;
    set_rows(rows, start_ + dropped);
    std::vector<uint32_t> kept(rows);
    for (uint32_t row = 0; row < rows; ++row) kept[row] = dropped + row;
    for (Activation* activation : {&x_, &q_}) {
        gather(*activation, old_lanes, kept, kept_.data());
        std::memcpy(activation->memory.data(), kept_.data(), size_t(panels_) * lanes_ * activation->width * sizeof(float));
    }
}

void CpuExecutor::norm(Activation& from, const std::vector<float>& weight, Activation& to) {
    pool_.run(panels_, [&](int p, int) {
        kernels_.rms_norm(from.panel(p, lanes_), weight.data(), to.panel(p, lanes_), from.width, lanes_, h_.rms_epsilon);
    });
}

int CpuExecutor::group_rows(const Tensor& w) const noexcept {
    if (lanes_ != 1) return gemm_rows;
    // Decode reads at memory speed only in long runs: the processor's prefetch starts anew with each task.
    const int64_t tasks = int64_t{decode_tasks_a_thread} * pool_.threads();
    const int64_t rows = (w.rows + tasks - 1) / tasks;
    return static_cast<int>(std::max<int64_t>(gemm_rows, (rows + packed_rows - 1) / packed_rows * packed_rows));
}

int CpuExecutor::row_groups(const Tensor& w) const noexcept {
    const int rows = group_rows(w);
    return static_cast<int>((w.rows + rows - 1) / rows);
}

CpuExecutor::RowSpan CpuExecutor::row_group(const Tensor& w, int group) const noexcept {
    const int rows = group_rows(w);
    return {group * rows, static_cast<int>(std::min<int64_t>(rows, w.rows - int64_t{group} * rows))};
}

void CpuExecutor::multiply_rows(const Tensor& w, int first, int count, const float* x, float* y, int y_width, const float* bias,
                                bool accumulate, Worker& worker) {
    if (const std::byte* groups = packed_.find(w)) return multiply_packed(w, groups, first, count, y, y_width, bias, accumulate);
    const int cols = static_cast<int>(w.cols);
    const std::byte* rows = packed_.rows(w) + first * w.row_bytes();
    if (lanes_ == 1) {
        // The kernel walks long runs of rows; several tokens read them again, from the second-level cache.
        const int longest = panels_ == 1 ? decode_rows : gemm_rows;
        for (int row = 0; row < count; row += longest) {
            const int piece = std::min(longest, count - row);
            for (int p = 0; p < panels_; ++p) {
                float result[decode_rows];
                kernels_.dot_rows(w.type, rows + row * w.row_bytes(), w.row_bytes(), piece, x + size_t(p) * cols, cols, result);
                float* out = y + size_t(p) * y_width + first + row;
                for (int r = 0; r < piece; ++r) {
                    const float value = result[r] + (bias != nullptr ? bias[first + row + r] : 0.0f);
                    out[r] = accumulate ? out[r] + value : value;
                }
            }
        }
        return;
    }
    const size_t y_stride = size_t(y_width) * lanes_;
    float* out = y + size_t(first) * lanes_;
    if (bias != nullptr) {
        for (int p = 0; p < panels_; ++p) {
            for (int r = 0; r < count; ++r) {
                float* row = out + p * y_stride + size_t(r) * lanes_;
                for (int lane = 0; lane < lanes_; ++lane) row[lane] = (accumulate ? row[lane] : 0.0f) + bias[first + r];
            }
        }
        accumulate = true;
    }
    const BlockInfo& info = block_info(w.type);
    for (int col = 0; col < cols; col += gemm_cols) {
        const int width = std::min(gemm_cols, cols - col);
        const int64_t offset = int64_t{col} / info.block_size * info.block_bytes;
        for (int r = 0; r < count; ++r) {
            decode_blocks(w.type, rows + r * w.row_bytes() + offset, width, worker.weights.data() + r * gemm_stride);
        }
        kernels_.gemm({.a = worker.weights.data(),
                       .rows = count,
                       .cols = width,
                       .b = x + size_t(col) * lanes_,
                       .b_panel_stride = size_t(cols) * lanes_,
                       .c = out,
                       .c_panel_stride = y_stride,
                       .panels = panels_,
                       .accumulate = accumulate || col != 0});
    }
}

void CpuExecutor::multiply(const Tensor& w, Activation& x, Activation& y, const std::vector<float>& bias, bool accumulate) {
    pack_input(x.memory.data(), x.width, static_cast<int>(rows_), {&w});
    pool_.run(row_groups(w), [&](int group, int worker) {
        const auto [first, count] = row_group(w, group);
        multiply_rows(w, first, count, x.memory.data(), y.memory.data(), y.width,
                      bias.empty() ? nullptr : bias.data(), accumulate, workers_[worker]);
    });
}

void CpuExecutor::gated(const Tensor& w_gate, const Tensor& w_up, Activation& x, Activation& gate, Activation& up) {
    gate.width = up.width = static_cast<int>(w_gate.rows);
    pack_input(x.memory.data(), x.width, static_cast<int>(rows_), {&w_gate, &w_up});
    pool_.run(row_groups(w_gate), [&](int group, int worker) {
        const auto [first, count] = row_group(w_gate, group);
        multiply_rows(w_gate, first, count, x.memory.data(), gate.memory.data(), gate.width, nullptr, false, workers_[worker]);
        multiply_rows(w_up, first, count, x.memory.data(), up.memory.data(), up.width, nullptr, false, workers_[worker]);
        for (int p = 0; p < panels_; ++p) {
            const size_t at = size_t(first) * lanes_;
            kernels_.silu_multiply(gate.panel(p, lanes_) + at, up.panel(p, lanes_) + at, size_t(count) * lanes_);
        }
    });
}

void CpuExecutor::project_qkv(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    norm(x_, w.attention_norm, normed_);
    struct Product {
        const Tensor& w;
        const std::vector<float>& bias;
        Activation& y;
    };
    const Product products[] = {{w.q, w.q_bias, q_}, {w.k, w.k_bias, k_}, {w.v, w.v_bias, v_}};
    pack_input(normed_.memory.data(), normed_.width, static_cast<int>(rows_), {&w.q, &w.k, &w.v});
    const int groups = row_groups(w.q) + row_groups(w.k) + row_groups(w.v);
    pool_.run(groups, [&](int group, int worker) {
        for (const Product& product : products) {
            if (group >= row_groups(product.w)) {
                group -= row_groups(product.w);
                continue;
            }
            const auto [first, count] = row_group(product.w, group);
            multiply_rows(product.w, first, count, normed_.memory.data(), product.y.memory.data(), product.y.width, product.bias.empty() ? nullptr : product.bias.data(), false,
                          workers_[worker]);
            return;
        }
    });
    if (w.q_norm.empty()) return;
    const auto norm_heads = [&](Activation& heads, const std::vector<float>& weight, int p) {
        for (int head = 0; head * static_cast<int>(h_.head_dim) < heads.width; ++head) {
            float* at = heads.panel(p, lanes_) + size_t(head) * h_.head_dim * lanes_;
            kernels_.rms_norm(at, weight.data(), at, static_cast<int>(h_.head_dim), lanes_, h_.rms_epsilon);
        }
    };
    pool_.run(panels_, [&](int p, int) {
        norm_heads(q_, w.q_norm, p);
        norm_heads(k_, w.k_norm, p);
    });
}

void CpuExecutor::project_output(uint32_t layer) {
    multiply(w_.layers[layer].output, a_, x_, w_.layers[layer].output_bias, true);
}

void CpuExecutor::feed_forward(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    norm(x_, w.ffn_norm, normed_);
    gated(w.gate, w.up, normed_, gate_, up_);
    multiply(w.down, gate_, x_, {}, true);
}

}  // namespace dca::cpu
