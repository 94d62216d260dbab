#include "cpu/executor/executor.h"

#include <algorithm>
#include <cstring>

#include "core/backend/forward.h"
#include "core/engine/page_pool.h"

namespace dca::cpu {

namespace {

bool needs_branch(const Hparams& h) noexcept {
    return h.norms == Norms::After || h.norms == Norms::BeforeAndAfter || h.residual_scale != 1.0f;
}

size_t padded(uint32_t rows) { return (size_t{rows} + kPanelLanes - 1) / kPanelLanes * kPanelLanes; }

}  // namespace

CpuExecutor::CpuExecutor(const Hparams& hparams, const Weights& weights, const PackedWeights& packed, const Kernels& kernels,
                         ThreadPool& pool, CpuKvCache& cache, EngineSpec spec)
    : h_(hparams),
      w_(weights),
      packed_(packed),
      kernels_(kernels),
      pool_(pool),
      prefill_(spec.prefill),
      whole_{.scheme = spec.scheme, .rope = std::move(spec.rope)},
      windowed_{.scheme = spec.window_scheme, .rope = std::move(spec.window_rope), .window = hparams.window},
      max_rows_(rows_of(spec)),
      group_(static_cast<int>(hparams.n_heads / hparams.n_kv_heads)),
      rank_(spec.link.rank),
      exchange_(static_cast<HostExchange*>(spec.link.exchange)),
      previous_(static_cast<CpuExecutor*>(spec.link.previous)),
      last_(spec.link.last),
      cache_(cache),
      turned_(holds_codes(cache.type())) {
    whole_.rope.fill();
    windowed_.rope.fill();
    const size_t rows = padded(max_rows_);
    const auto activation = [&](uint32_t width) { return Activation(static_cast<int>(width), rows); };
    x_ = activation(h_.n_embd);
    normed_ = activation(h_.n_embd);
    q_ = activation(h_.q_width());
    k_ = activation(h_.kv_width());
    v_ = activation(h_.kv_width());
    a_ = activation(h_.q_width());
    if (needs_branch(h_) || exchange_ != nullptr) branch_ = activation(h_.n_embd);
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

    const size_t head_panels = static_cast<size_t>(group_) * h_.head_dim * kPanelLanes;
    workers_.resize(pool_.threads());
    for (Worker& worker : workers_) {
        worker.weights = Buffer<float>(size_t{kGemmRows} * kGemmStride);
        worker.attention = Buffer<float>(attend_scratch_floats(group_, static_cast<int>(h_.head_dim)));
        worker.gathered = Buffer<float>(head_panels);
        worker.q = Buffer<float>(head_panels);
        worker.out = Buffer<float>(head_panels);
        worker.maximum = Buffer<float>(static_cast<size_t>(group_) * kPanelLanes);
        worker.sum = Buffer<float>(static_cast<size_t>(group_) * kPanelLanes);
        worker.cos = Buffer<float>(size_t{h_.rotary_dim} / 2 * kPanelLanes);
        worker.sin = Buffer<float>(size_t{h_.rotary_dim} / 2 * kPanelLanes);
        worker.factor = Buffer<float>(kPanelLanes);
        if (prefill_.chooses()) worker.pairs.resize(size_t{h_.n_layers} * h_.n_heads);
    }
}

uint64_t CpuExecutor::scratch_bytes() const {
    uint64_t bytes = packed_x_.bytes() + kept_.bytes() + vocab_.bytes() + sampled_.bytes() + partials_.bytes() +
                     (whole_.rope.bytes() + windowed_.rope.bytes());
    for (const Activation* activation : {&x_, &normed_, &branch_, &q_, &k_, &v_, &a_, &gate_, &up_, &router_, &gathered_, &expert_out_})
        bytes += activation->memory.bytes();
    for (const Worker& worker : workers_) {
        for (const Buffer<float>* buffer : {&worker.weights, &worker.attention, &worker.gathered, &worker.q, &worker.out, &worker.maximum,
                                            &worker.sum, &worker.cos, &worker.sin, &worker.factor}) {
            bytes += buffer->bytes();
        }
    }
    return bytes;
}

uint64_t CpuExecutor::bytes_for(const Hparams& h, uint32_t max_rows) {
    const uint64_t n_ff = std::max({h.n_ff, h.n_ff_expert, h.n_ff_shared});
    uint64_t widths =
        2 * uint64_t{h.n_embd} + 2 * uint64_t{h.q_width()} + 2 * uint64_t{h.kv_width()} + 2 * n_ff + std::max(h.n_embd, h.q_width());
    if (needs_branch(h)) widths += h.n_embd;
    if (h.n_experts != 0) widths += uint64_t{h.n_experts} + 2 * uint64_t{h.n_embd};
    return padded(max_rows) * widths * sizeof(float);
}

PanelShape CpuExecutor::shape_of(uint32_t rows) const noexcept { return {rows, rows < kFewestForPanels ? 1 : kPanelLanes}; }

void CpuExecutor::set_slices(std::span<const SliceRows> slices) {
    slices_.assign(slices.begin(), slices.end());
    indices_.clear();
    places_.clear();
    for (const SliceRows& slice : slices_) {
        for (uint32_t i = slice.start; i < slice.start + slice.rows; ++i) {
            indices_.push_back(i);
            places_.push_back(slice.pages[i / kPageTokens] * kPageTokens + i % kPageTokens);
        }
    }
    shape_ = shape_of(static_cast<uint32_t>(indices_.size()));
    plan_attention(whole_);
    if (windowed_.window != 0) plan_attention(windowed_);
    if (prefill_.stated != nullptr) plan_units();
}

void CpuExecutor::run(const Batch& batch) { forward(*this, h_, batch, last_); }

void CpuExecutor::begin(const Batch& batch) {
    batch_ = batch.slices;
    std::vector<SliceRows> slices;
    std::vector<int32_t> tokens;
    cache_.begin(batch);
    for (const Slice& slice : batch.slices) {
        const uint32_t fresh = cache_.has_fresh_pages() ? slice.start / kPageTokens : UINT32_MAX;
        slices.push_back({slice.pages, slice.start, static_cast<uint32_t>(tokens.size()), slice.rows(), slice.sparse_end, fresh});
        tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
    }
    set_slices(slices);
    if (prefill_.sparse) prepare_means();
    if (previous_ != nullptr) {
        const size_t rows = static_cast<size_t>(shape_.panels()) * shape_.lanes;
        std::memcpy(x_.memory.data(), previous_->x_.memory.data(), rows * x_.width * sizeof(float));
        return;
    }
    const Tensor& table = w_.token_embedding;
    const int lanes = shape_.lanes;
    pool_.run(shape_.panels(), [&](int p, int) {
        float* panel = x_.panel(p, lanes);
        for (int lane = 0; lane < lanes; ++lane) {
            const size_t row = static_cast<size_t>(p) * lanes + lane;
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
                for (int64_t i = 0; i < count; ++i) panel[(f + i) * lanes + lane] = piece[i] * h_.embedding_scale;
            }
        }
    });
}

void CpuExecutor::gather(Activation& from, PanelShape from_shape, std::span<const uint32_t> rows, PanelShape to_shape, float* to) {
    const int lanes = to_shape.lanes;
    pool_.run(to_shape.panels(), [&](int p, int) {
        float* out = to + static_cast<size_t>(p) * from.width * lanes;
        for (int lane = 0; lane < lanes; ++lane) {
            const size_t at = static_cast<size_t>(p) * lanes + lane;
            // Lanes past the last row repeat it: any finite value will do.
            const uint32_t row = rows[std::min(at, rows.size() - 1)];
            const float* in = from.panel(from_shape.panel(row), from_shape.lanes) + from_shape.lane(row);
            for (int f = 0; f < from.width; ++f) out[static_cast<size_t>(f) * lanes + lane] = in[static_cast<size_t>(f) * from_shape.lanes];
        }
    });
}

void CpuExecutor::keep_wanted_rows() {
    std::vector<uint32_t> kept;
    std::vector<SliceRows> slices;
    for (size_t i = 0; i < batch_.size(); ++i) {
        const uint32_t wanted = batch_[i].wanted;
        const SliceRows& whole = slices_[i];
        if (wanted == 0) continue;
        const uint32_t dropped = whole.rows - wanted;
        slices.push_back(
            {whole.pages, whole.start + dropped, static_cast<uint32_t>(kept.size()), wanted, whole.sparse_end, whole.fresh_page});
        for (uint32_t row = 0; row < wanted; ++row) kept.push_back(whole.first_row + dropped + row);
    }
    if (kept.size() == shape_.rows) return;
    const PanelShape before = shape_;
    set_slices(slices);
    std::vector<Activation*> moved{&x_, &q_};
    if (h_.norms == Norms::Parallel) moved.push_back(&normed_);  // the feed-forward reads it too
    for (Activation* activation : moved) {
        gather(*activation, before, kept, shape_, kept_.data());
        std::memcpy(activation->memory.data(), kept_.data(),
                    static_cast<size_t>(shape_.panels()) * shape_.lanes * activation->width * sizeof(float));
    }
}

void CpuExecutor::norm(Activation& from, const std::vector<float>& weight, const std::vector<float>& bias, Activation& to) {
    pool_.run(shape_.panels(), [&, lanes = shape_.lanes](int p, int) {
        const float* in = from.panel(p, lanes);
        float* out = to.panel(p, lanes);
        if (h_.norm == NormKind::Rms) return kernels_.rms_norm(in, weight.data(), out, from.width, lanes, h_.rms_epsilon);
        kernels_.layer_norm(in, weight.data(), bias.empty() ? nullptr : bias.data(), out, from.width, lanes, h_.rms_epsilon);
    });
}

Activation& CpuExecutor::normed(Activation& from, const std::vector<float>& weight, const std::vector<float>& bias) {
    if (weight.empty()) return from;
    norm(from, weight, bias, normed_);
    return normed_;
}

void CpuExecutor::norm_heads(Activation& heads, const std::vector<float>& weight) {
    if (weight.empty()) return;
    if (h_.whole_width_qk_norm) return norm(heads, weight, {}, heads);
    const auto head_dim = static_cast<int>(h_.head_dim);
    const size_t step = weight.size() == h_.head_dim ? 0 : h_.head_dim;  // from a head's weights to the next's
    pool_.run(shape_.panels(), [&, lanes = shape_.lanes](int p, int) {
        const float* scale = weight.data();
        for (int head = 0; head * head_dim < heads.width; ++head, scale += step) {
            float* at = heads.panel(p, lanes) + static_cast<size_t>(head) * head_dim * lanes;
            if (h_.norm == NormKind::Rms) {
                kernels_.rms_norm(at, scale, at, head_dim, lanes, h_.rms_epsilon);
            } else {
                kernels_.layer_norm(at, scale, nullptr, at, head_dim, lanes, h_.rms_epsilon);
            }
        }
    });
}

void CpuExecutor::project_qkv(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    Activation& x = normed(x_, w.attention_norm, w.attention_norm_bias);
    const Input in = make_input(x.memory.data(), x.width, shape_, {&w.q, &w.k, &w.v});
    struct Product {
        const Tensor& w;
        Output out;
    };
    const Product products[] = {{w.q, output(q_, w.q_bias)}, {w.k, output(k_, w.k_bias)}, {w.v, output(v_, w.v_bias)}};
    const int groups = row_groups(w.q, shape_) + row_groups(w.k, shape_) + row_groups(w.v, shape_);
    pool_.run(groups, [&](int group, int worker) {
        for (const Product& product : products) {
            const int of_this = row_groups(product.w, shape_);
            if (group < of_this) return multiply_rows(product.w, row_group(product.w, shape_, group), in, product.out, workers_[worker]);
            group -= of_this;
        }
    });
    norm_heads(q_, w.q_norm);
    norm_heads(k_, w.k_norm);
}

void CpuExecutor::add_product(const Tensor& w, Activation& x, const std::vector<float>& bias, const std::vector<float>& post_norm) {
    const Input in = make_input(x.memory.data(), x.width, shape_, {&w});
    if (adds_directly(post_norm)) return multiply(w, in, output(x_, bias, true));
    multiply(w, in, output(branch_, bias));
    add_branch(post_norm);
}

void CpuExecutor::add_branch(const std::vector<float>& post_norm) {
    if (exchange_ != nullptr) {
        const size_t rows = static_cast<size_t>(shape_.panels()) * shape_.lanes;
        exchange_->sum(rank_, {branch_.memory.data(), rows * branch_.width});
    }
    if (!post_norm.empty()) norm(branch_, post_norm, {}, branch_);
    pool_.run(shape_.panels(), [&, lanes = shape_.lanes](int p, int) {
        kernels_.add_scaled(x_.panel(p, lanes), branch_.panel(p, lanes), h_.residual_scale, static_cast<size_t>(x_.width) * lanes);
    });
}

void CpuExecutor::project_output(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    add_product(w.output, a_, w.output_bias, w.attention_post_norm);
}

void CpuExecutor::feed_forward(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    Activation& x = h_.norms == Norms::Parallel ? normed_ : normed(x_, w.ffn_norm, w.ffn_norm_bias);
    gated(w.gate, w.up, x, shape_, w.gate_bias, w.up_bias);
    add_product(w.down, gate_, w.down_bias, w.ffn_post_norm);
}

}  // namespace dca::cpu
