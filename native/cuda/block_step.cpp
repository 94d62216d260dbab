#include "cuda/block_step.h"

#include <algorithm>

#include "cuda/linear/elementwise.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

void BlockStep::norm(const float* weight, float* factors) {
    const RmsNormArgs args{session_.x(), weight, h_.rms_epsilon, session_.rows, h_.n_embd, weights_.dtype(), memory_.normed, factors};
    check(rms_norm(args, session_.stream.get()), "norming");
}

void BlockStep::multiply(const FusedMatrices& fused, const void* in, const Output& out) {
    uint32_t column = 0;
    for (const Matrix& part : fused.parts) {
        Output here = out;
        here.to = static_cast<std::byte*>(out.to) + size_t{column} * (out.f32 ? 4 : 2);
        const std::byte* bias = static_cast<const std::byte*>(out.f32 ? fused.bias : fused.bias_16);
        multiply(part, in, bias == nullptr ? nullptr : bias + size_t{column} * (out.f32 ? 4 : 2), here, session_.rows);
        column += part.rows;
    }
}

void BlockStep::multiply(const Matrix& w, const void* in, const void* bias, const Output& out, uint32_t tokens) {
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
        gemm_.multiply(args, session_.stream.get());
        return;
    }
    uint64_t most_rows = memory_.dequantized_bytes / (2 * uint64_t{w.cols});
    most_rows = most_rows >= w.rows ? w.rows : most_rows / SessionMemory::dequantized_rows * SessionMemory::dequantized_rows;
    for (uint32_t first = 0; first < w.rows; first += most_rows) {
        const size_t value_bytes = out.f32 ? 4 : 2;
        args.rows = static_cast<uint32_t>(std::min<uint64_t>(most_rows, w.rows - first));
        check(dequantize(w, first, args.rows, weights_.dtype(), memory_.dequantized, session_.stream.get()), "dequantizing weights");
        args.w = memory_.dequantized;
        args.y = static_cast<std::byte*>(out.to) + first * value_bytes;
        args.bias = bias == nullptr ? nullptr : static_cast<const std::byte*>(bias) + first * value_bytes;
        gemm_.multiply(args, session_.stream.get());
    }
}

void BlockStep::project_qkv(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    norm(w.attention_norm);
    multiply(w.qkv, memory_.normed, {session_.qkv(), session_.qkv_width(), false, false});
    session_.norm_heads(w);
}

void BlockStep::store_keys_values(uint32_t layer) { session_.store_keys_values(layer, nullptr); }

void BlockStep::attend(uint32_t layer) {
    const PrefillArgs args{
        .shape = session_.shape,
        .scheme = session_.scheme,
        .cache = memory_.cache[layer],
        .rotary = memory_.rotary,
        .q = session_.qkv(),
        .out = memory_.attended,
        .q_stride = session_.qkv_width(),
        .out_stride = h_.q_width(),
        .dtype = weights_.dtype(),
        .start = session_.start,
        .n_queries = session_.rows,
        .workspace = memory_.prefill_workspace,
        .workspace_bytes = memory_.prefill_bytes,
        .kernel = PrefillKernel::Auto,
    };
    check(attention_prefill(session_.device.card, args, session_.stream.get()), "attending");
}

void BlockStep::project_output(uint32_t layer) {
    multiply(weights_.layers()[layer].output, memory_.attended, {session_.x(), h_.n_embd, true, true});
}

void BlockStep::feed_forward(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    norm(w.ffn_norm);
    multiply(w.gate_up, memory_.normed, {memory_.gate_up, 2 * h_.n_ff, false, false});
    check(silu_multiply(memory_.gate_up, session_.rows, h_.n_ff, weights_.dtype(), memory_.gated, session_.stream.get()), "gating");
    multiply(w.down, memory_.gated, {session_.x(), h_.n_embd, true, true});
}

void BlockStep::logits(float* out) {
    const size_t n_vocab = h_.n_vocab;
    norm(weights_.output_norm());
    for (uint32_t first = 0; first < session_.rows; first += memory_.vocab_rows) {
        const uint32_t count = std::min(memory_.vocab_rows, session_.rows - first);
        multiply(weights_.output().parts.front(), memory_.normed + size_t{first} * h_.n_embd * 2, nullptr,
                 {memory_.logits, h_.n_vocab, true, false}, count);
        check(cudaMemcpyAsync(out + first * n_vocab, memory_.logits, count * n_vocab * sizeof(float), cudaMemcpyDeviceToHost,
                              session_.stream.get()),
              "reading logits");
    }
    session_.wait();
}

void BlockStep::nll(uint32_t n_targets) {
    norm(weights_.output_norm());
    for (uint32_t first = 0; first < n_targets; first += memory_.vocab_rows) {
        const uint32_t count = std::min(memory_.vocab_rows, n_targets - first);
        multiply(weights_.output().parts.front(), memory_.normed + size_t{first} * h_.n_embd * 2, nullptr,
                 {memory_.logits, h_.n_vocab, true, false}, count);
        check(
            negative_log_likelihood(memory_.logits, count, h_.n_vocab, memory_.targets + first, memory_.nll + first, session_.stream.get()),
            "scoring");
    }
}

}  // namespace dca::cuda
