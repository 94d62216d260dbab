#include "cuda/step/block_step.h"

#include <algorithm>

#include "cuda/linear/elementwise.h"
#include "cuda/linear/small_batch/small_batch.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

namespace {

// Sums over ranks of at least so many rows are cut into pieces, each of a multiple of kPieceRows rows.
constexpr uint32_t kRowsInPieces = 1024;
constexpr uint32_t kPieces = 4;
constexpr uint32_t kPieceRows = 256;

}  // namespace

void BlockStep::multiply(const FusedMatrices& fused, const void* in, const Output& out) {
    uint32_t column = 0;
    for (const Matrix& part : fused.parts) {
        Output here = out;
        here.to = static_cast<std::byte*>(out.to) + size_t{column} * (out.f32 ? 4 : 2);
        const std::byte* bias = static_cast<const std::byte*>(out.f32 ? fused.bias : fused.bias_16);
        multiply(part, in, bias == nullptr ? nullptr : bias + size_t{column} * (out.f32 ? 4 : 2), here, state_.rows);
        column += part.rows;
    }
}

void BlockStep::multiply(const Matrix& w, const void* in, const void* bias, const Output& out, uint32_t tokens) {
    if (small_batch_takes(state_.device.card, w, tokens) && small_batch_preferred(state_.device.card, w, tokens)) {
        const SmallBatchArgs few{
            .w = w,
            .x = in,
            .y = out.to,
            .rows = tokens,
            .y_stride = out.stride,
            .dtype = weights_.dtype(),
            .y_f32 = out.f32,
            .add = out.add,
            .bias = bias,
            .workspace = memory_.product_workspace,
            .gated = out.gated,
            .activation = h_.activation,
        };
        check(small_batch(state_.device.card, few, state_.stream.get()), "multiplying rows");
        return;
    }
    GemmArgs args{
        .w = w.low,
        .x = in,
        .y = out.to,
        .tokens = tokens,
        .rows = w.rows,
        .cols = w.cols,
        .y_stride = out.stride,
        .dtype = weights_.dtype(),
        .in_f32 = false,
        .y_f32 = out.f32,
        .add = out.add,
        .bias = bias,
    };
    if (w.format == WeightFormat::F16 || w.format == WeightFormat::BF16) {
        gemm_.multiply(args, state_.stream.get());
        return;
    }
    uint64_t most_rows = memory_.dequantized_bytes / (2 * uint64_t{w.cols});
    most_rows = most_rows >= w.rows ? w.rows : most_rows / WorkSpace::kDequantizedRows * WorkSpace::kDequantizedRows;
    for (uint32_t first = 0; first < w.rows; first += most_rows) {
        const size_t value_bytes = out.f32 ? 4 : 2;
        args.rows = static_cast<uint32_t>(std::min<uint64_t>(most_rows, w.rows - first));
        check(dequantize(w, first, args.rows, weights_.dtype(), memory_.dequantized, state_.stream.get()), "dequantizing weights");
        args.w = memory_.dequantized;
        args.y = static_cast<std::byte*>(out.to) + first * value_bytes;
        args.bias = bias == nullptr ? nullptr : static_cast<const std::byte*>(bias) + first * value_bytes;
        gemm_.multiply(args, state_.stream.get());
    }
}

void BlockStep::share_product(const FusedMatrices& fused, const std::byte* in, Partial partial) {
    // While one piece crosses the link, the next one is multiplied.
    const Matrix& w = fused.parts.front();
    const uint32_t rows = state_.rows;
    const uint32_t a_piece = rows < kRowsInPieces ? rows : (rows / kPieces + kPieceRows - 1) / kPieceRows * kPieceRows;
    for (uint32_t first = 0; first < rows; first += a_piece) {
        const uint32_t count = std::min(a_piece, rows - first);
        std::byte* to = state_.partials(partial) + size_t{first} * h_.n_embd * 2;
        multiply(w, in + size_t{first} * w.cols * 2, fused.bias_16, {to, h_.n_embd, false, false}, count);
        state_.send_partials(partial, first, count);
    }
}

void BlockStep::project_qkv(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    state_.norm(w.attention_norm);
    multiply(w.qkv, memory_.normed, {state_.qkv(), state_.qkv_width(), false, false});
    state_.norm_heads(w);
}

void BlockStep::store_keys_values(uint32_t layer) { state_.store_keys_values(layer); }

void BlockStep::project_output(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    if (state_.sums_while_norming(w.attention_post_norm)) return share_product(w.output, memory_.attended, Partial::Attention);
    const StepState::Sum sum = state_.attention_sum(w);
    multiply(w.output, memory_.attended, {sum.to, h_.n_embd, true, sum.add});
    state_.end_attention(w);
}

void BlockStep::gate(const FusedMatrices& gate_up, uint32_t width) {
    if (gate_up.merged() && small_batch_gates(state_.device.card, gate_up.parts.front(), state_.rows))
        return multiply(gate_up, memory_.normed, {memory_.gated, width, false, false, true});
    multiply(gate_up, memory_.normed, {memory_.gate_up, 2 * width, false, false});
    check(gate_multiply(state_.device.card, h_.activation, memory_.gate_up, state_.rows, width, weights_.dtype(), memory_.gated,
                        state_.stream.get()),
          "gating");
}

void BlockStep::feed_forward(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    state_.norm(w.ffn_norm);
    gate(w.gate_up, h_.n_ff);
    if (state_.sums_while_norming(w.ffn_post_norm)) return share_product(w.down, memory_.gated, Partial::FeedForward);
    const StepState::Sum sum = state_.ffn_sum(w);
    multiply(w.down, memory_.gated, {sum.to, h_.n_embd, true, sum.add});
    state_.end_ffn(w);
}

uint32_t BlockStep::issue_logits(uint32_t first) {
    if (first == 0) state_.norm(weights_.output_norm());
    // Padding is multiplied too: products then have few sizes, and a row's bits do not depend on how many are real.
    const uint32_t count = std::min(memory_.vocab_rows, state_.rows - first);
    multiply(weights_.output().parts.front(), memory_.normed + size_t{first} * h_.n_embd * 2, nullptr,
             {memory_.logits, h_.n_vocab, true, false}, count);
    state_.finish_logits(count);
    return count;
}

void BlockStep::output(uint32_t rows, const Read& read) {
    for (uint32_t first = 0; first < rows; first += memory_.vocab_rows) {
        const bool played = played_ && first == 0;
        const uint32_t count = played ? std::min(memory_.vocab_rows, state_.rows) : issue_logits(first);
        read(first, std::min(count, rows - first));
    }
}

}  // namespace dca::cuda
