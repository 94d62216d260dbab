#include "cuda/step/row_step.h"

#include "cuda/experts/gather_scatter.h"
#include "cuda/experts/router.h"
#include "cuda/linear/elementwise.h"

namespace dca::cuda {

RowStep::Input RowStep::normed(const DeviceNorm& norm) {
    if (norm.weight == nullptr || h_.norm == NormKind::Rms) return {state_.x(), VectorType::F32, norm.weight};
    state_.norm(norm);
    return {memory_.normed, activation_type(), nullptr};
}

MatvecArgs RowStep::product(const Matrix& w, const Input& in, const Output& out) const noexcept {
    MatvecArgs args{};
    args.w = w;
    args.x = in.from;
    args.x_type = in.type;
    args.norm = in.norm;
    args.epsilon = h_.rms_epsilon;
    args.activation = h_.activation;
    args.y = out.to;
    args.y_type = out.type;
    args.add = out.add;
    args.rows_apart = 1;
    return args;
}

void RowStep::multiply(const FusedMatrices& fused, const Input& in, const Output& out) {
    const size_t value_bytes = out.type == VectorType::F32 ? 4 : 2;
    uint32_t row = 0;
    for (const Matrix& part : fused.parts) {
        MatvecArgs args = product(part, in, {static_cast<std::byte*>(out.to) + row * value_bytes, out.type, out.add});
        args.bias = fused.bias == nullptr ? nullptr : fused.bias + row;
        check(matvec(state_.device.card, args, state_.stream.get()), "multiplying a row");
        row += part.rows;
    }
}

bool RowStep::stores_while_projecting(const DeviceLayer& w) const noexcept {
    const bool pairs_together = h_.rope_layout == RopeLayout::Interleaved || h_.rotary_dim == h_.head_dim;
    return w.qkv.merged() && w.q_norm == nullptr && !holds_codes(state_.cache->type()) && pairs_together;
}

void RowStep::project_and_store(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    const LayerCache& cache = state_.cache->layers()[layer];
    const LayerAttention attention = state_.attention_of(layer);
    MatvecArgs args = product(w.qkv.parts.front(), normed(w.attention_norm), {state_.qkv(), activation_type(), false});
    args.bias = w.qkv.bias;
    args.kv = {
        .keys = cache.keys,
        .values = cache.values,
        .type = cache.type == CacheType::F16 ? VectorType::F16 : VectorType::BF16,
        .head_dim = h_.head_dim,
        .rotary_dim = static_cast<uint32_t>(attention.shape.rotary_dim),
        .q_rows = h_.q_width(),
        .kv_rows = h_.kv_width(),
        .chunk_size = attention.scheme.chunk_size,
        .cos_sin = attention.rotary.cos_sin,
        .index = state_.input.indices(),
        .place = state_.input.places(),
    };
    if (h_.rope_layout == RopeLayout::Halves) args.rows_apart = h_.head_dim / 2;
    check(matvec(state_.device.card, args, state_.stream.get()), "multiplying a row");
}

void RowStep::project_qkv(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    if (stores_while_projecting(w)) return project_and_store(layer);
    multiply(w.qkv, normed(w.attention_norm), {state_.qkv(), activation_type(), false});
    state_.norm_heads(w);
}

void RowStep::store_keys_values(uint32_t layer) {
    state_.stored_one = false;
    if (!stores_while_projecting(weights_.layers()[layer])) state_.store_keys_values(layer);
}

void RowStep::project_output(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    const StepState::Sum sum = state_.attention_sum(w);
    multiply(w.output, {memory_.attended, activation_type(), nullptr}, {sum.to, VectorType::F32, sum.add});
    state_.end_attention(w);
}

void RowStep::gate(const FusedMatrices& gate_up, const Input& in, uint32_t width) {
    if (gate_up.merged()) {
        MatvecArgs args = product(gate_up.parts.front(), in, {memory_.gated_row, VectorType::F32, false});
        args.bias = gate_up.bias;
        args.gated = true;
        args.rows_apart = width;
        check(matvec(state_.device.card, args, state_.stream.get()), "multiplying a row");
    } else {
        multiply(gate_up, in, {memory_.gate_up_row, VectorType::F32, false});
        check(gate_multiply_f32(state_.device.card, h_.activation, memory_.gate_up_row, 1, width, memory_.gated_row, state_.stream.get()),
              "gating");
    }
}

void RowStep::feed_forward(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    gate(w.gate_up, normed(w.ffn_norm), h_.n_ff);
    const StepState::Sum sum = state_.ffn_sum(w);
    multiply(w.down, {memory_.gated_row, VectorType::F32, nullptr}, {sum.to, VectorType::F32, sum.add});
    state_.end_ffn(w);
}

void RowStep::multiply_chosen(const FusedMatrices& fused, const OwnExperts& own, const Input& in, uint32_t in_apart, float* out,
                              uint32_t out_apart, bool gated) {
    uint32_t row = 0;
    for (const Matrix& part : fused.parts) {
        MatvecArgs first = product(part, in, {out + row, VectorType::F32, false});
        first.gated = gated;
        if (gated) first.rows_apart = part.rows / 2;
        first.bias = fused.bias == nullptr ? nullptr : fused.bias + row;
        const ExpertMatvecArgs args{first, fused.rows, memory_.experts.chosen, own, h_.n_experts_used, in_apart, out_apart};
        check(matvec_experts(state_.device.card, args, state_.stream.get()), "multiplying a row");
        row += part.rows;
    }
}

void RowStep::feed_forward_experts(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    const ExpertMemory& m = memory_.experts;
    const uint32_t used = h_.n_experts_used, width = h_.n_ff_expert, n_logits = h_.n_experts + (w.shared_gated ? 1 : 0);
    check(router_logits_row(state_.device.card, state_.x(), w.router, h_.rms_epsilon, h_.n_embd, n_logits, m.logits, state_.stream.get()),
          "routing");
    state_.choose_experts(w, nullptr);

    const Input in = normed(w.ffn_norm);
    if (w.gate_up.merged()) {
        multiply_chosen(w.gate_up, w.own_experts, in, 0, memory_.gated_row, width, true);
    } else {
        multiply_chosen(w.gate_up, w.own_experts, in, 0, memory_.gate_up_row, 2 * width, false);
        check(
            gate_multiply_f32(state_.device.card, h_.activation, memory_.gate_up_row, used, width, memory_.gated_row, state_.stream.get()),
            "gating");
    }
    multiply_chosen(w.down, w.own_experts, {memory_.gated_row, VectorType::F32, nullptr}, width, m.results, h_.n_embd, false);
    if (h_.n_ff_shared > 0) {
        gate(w.shared_gate_up, in, h_.n_ff_shared);
        multiply(w.shared_down, {memory_.gated_row, VectorType::F32, nullptr},
                 {m.results + size_t{used} * h_.n_embd, VectorType::F32, false});
    }
    const StepState::Sum sum = state_.ffn_sum(w);
    const AddWeightedRowArgs add{m.results, m.weights, m.chosen, w.own_experts, used, h_.n_embd, h_.n_ff_shared > 0, sum.add, sum.to};
    check(add_weighted_row(state_.device.card, add, state_.stream.get()), "adding experts");
    state_.end_ffn(w);
}

void RowStep::issue_logits() {
    multiply(weights_.output(), normed(weights_.output_norm()), {memory_.logits, VectorType::F32, false});
    state_.finish_logits(1);
}

void RowStep::output(uint32_t rows, const Read& read) {
    if (!played_) issue_logits();
    read(0, rows);
}

}  // namespace dca::cuda
