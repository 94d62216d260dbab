#include "cuda/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/forward.h"
#include "cuda/linear/elementwise.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

namespace {

AttentionShape attention_shape(const Hparams& h) {
    return {
        .n_heads = static_cast<int32_t>(h.n_heads),
        .n_kv_heads = static_cast<int32_t>(h.n_kv_heads),
        .head_dim = static_cast<int32_t>(h.head_dim),
        .rotary_dim = static_cast<int32_t>(h.rotary_dim),
        .rope_interleaved = h.rope_layout == RopeLayout::Interleaved,
        .scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim)),
    };
}

}  // namespace

CudaExecutor::CudaExecutor(const Hparams& hparams, const DeviceWeights& weights, const Device& device, ExecutorOptions options)
    : h_(hparams),
      weights_(weights),
      device_(device),
      shape_(attention_shape(hparams)),
      scheme_(options.scheme),
      memory_(hparams, weights, device, shape_, options),
      gemm_(memory_.gemm_workspace),
      stream_(make_stream()) {}

CudaExecutor::~CudaExecutor() { static_cast<void>(cudaStreamSynchronize(stream_.get())); }

void CudaExecutor::copy_cache(const Executor& from, uint32_t length) {
    const auto& other = static_cast<const CudaExecutor&>(from);
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    check(cudaStreamSynchronize(other.stream_.get()), "running the model");  // this session's stream does not wait for that one
    for (uint32_t layer = 0; layer < h_.n_layers; ++layer) {
        const LayerCache& to = memory_.cache[layer];
        const LayerCache& source = other.memory_.cache[layer];
        const auto copy = [&](void* into, const void* out_of, size_t token_bytes) {
            for (size_t head = 0; head < h_.n_kv_heads; ++head) {
                check(cudaMemcpyAsync(static_cast<std::byte*>(into) + head * to.capacity * token_bytes,
                                      static_cast<const std::byte*>(out_of) + head * source.capacity * token_bytes, length * token_bytes,
                                      cudaMemcpyDeviceToDevice, stream_.get()),
                      "copying the cache");
            }
        };
        const bool scaled = to.type == CacheType::Q8;
        copy(to.keys, source.keys, size_t{h_.head_dim} * (scaled ? 1 : 2));
        copy(to.values, source.values, size_t{h_.head_dim} * (scaled ? 1 : 2));
        if (!scaled) continue;
        copy(to.key_scales, source.key_scales, sizeof(uint16_t));
        copy(to.value_scales, source.value_scales, sizeof(uint16_t));
    }
    check(cudaStreamSynchronize(stream_.get()), "copying the cache");  // the other session may change after this
}

void CudaExecutor::prepare_step(std::span<const int32_t> tokens, uint32_t start) {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    std::ranges::copy(tokens, memory_.tokens);
    *memory_.start = start;
    rows_ = static_cast<uint32_t>(tokens.size());
    first_row_ = 0;
    start_ = start;
    replayed_ = false;
}

bool CudaExecutor::replay(std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) {
    if (recording_ || !warm_ || tokens.size() != 1 || wanted != 1) return false;
    if (graph_ == nullptr) record(tokens, start);
    prepare_step(tokens, start);
    check(cudaGraphLaunch(graph_.get(), stream_.get()), "running the model");
    replayed_ = true;
    return true;
}

void CudaExecutor::record(std::span<const int32_t> tokens, uint32_t start) {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "recording a step");
    recording_ = true;
    cudaGraph_t raw = nullptr;
    try {
        forward(*this, h_, tokens, start, 1);
        logits_row();
    } catch (...) {
        recording_ = false;
        static_cast<void>(cudaStreamEndCapture(stream_.get(), &raw));
        Graph(raw).reset();
        throw;
    }
    recording_ = false;
    check(cudaStreamEndCapture(stream_.get(), &raw), "recording a step");
    const Graph graph(raw);
    cudaGraphExec_t exec = nullptr;
    check(cudaGraphInstantiate(&exec, graph.get(), 0), "recording a step");
    graph_.reset(exec);
}

void CudaExecutor::begin(std::span<const int32_t> tokens, uint32_t start) {
    prepare_step(tokens, start);
    warm_ |= tokens.size() == 1;
    const EmbedArgs args{weights_.token_embedding(), memory_.tokens, memory_.start, rows_, memory_.x, memory_.length};
    check(embed(args, stream_.get()), "embedding tokens");
}

void CudaExecutor::norm(const float* weight, float* factors) {
    const RmsNormArgs args{x(), weight, h_.rms_epsilon, rows_, h_.n_embd, weights_.dtype(), memory_.normed, factors};
    check(rms_norm(args, stream_.get()), "norming");
}

void CudaExecutor::multiply(const FusedMatrices& fused, const void* in, const Output& out) {
    uint32_t column = 0;
    for (const Matrix& part : fused.parts) {
        Output here = out;
        here.to = static_cast<std::byte*>(out.to) + size_t{column} * (out.f32 ? 4 : 2);
        const std::byte* bias = static_cast<const std::byte*>(out.f32 ? fused.bias : fused.bias_16);
        multiply(part, in, bias == nullptr ? nullptr : bias + size_t{column} * (out.f32 ? 4 : 2), here, rows_);
        column += part.rows;
    }
}

void CudaExecutor::multiply(const Matrix& w, const void* in, const void* bias, const Output& out, uint32_t tokens) {
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
        gemm_.multiply(args, stream_.get());
        return;
    }
    uint64_t most_rows = memory_.dequantized_bytes / (2 * uint64_t{w.cols});
    most_rows = most_rows >= w.rows ? w.rows : most_rows / SessionMemory::dequantized_rows * SessionMemory::dequantized_rows;
    for (uint32_t first = 0; first < w.rows; first += most_rows) {
        const size_t value_bytes = out.f32 ? 4 : 2;
        args.rows = static_cast<uint32_t>(std::min<uint64_t>(most_rows, w.rows - first));
        check(dequantize(w, first, args.rows, weights_.dtype(), memory_.dequantized, stream_.get()), "dequantizing weights");
        args.w = memory_.dequantized;
        args.y = static_cast<std::byte*>(out.to) + first * value_bytes;
        args.bias = bias == nullptr ? nullptr : static_cast<const std::byte*>(bias) + first * value_bytes;
        gemm_.multiply(args, stream_.get());
    }
}

MatvecArgs CudaExecutor::row_product(const Matrix& w, const RowInput& in, const RowOutput& out) const noexcept {
    MatvecArgs args{};
    args.w = w;
    args.x = in.from;
    args.x_type = in.type;
    args.norm = in.norm;
    args.epsilon = h_.rms_epsilon;
    args.y = out.to;
    args.y_type = out.type;
    args.add = out.add;
    args.rows_apart = 1;
    return args;
}

void CudaExecutor::multiply_row(const FusedMatrices& fused, const RowInput& in, const RowOutput& out) {
    const size_t value_bytes = out.type == VectorType::F32 ? 4 : 2;
    uint32_t row = 0;
    for (const Matrix& part : fused.parts) {
        MatvecArgs args = row_product(part, in, {static_cast<std::byte*>(out.to) + row * value_bytes, out.type, out.add});
        args.bias = fused.bias == nullptr ? nullptr : fused.bias + row;
        check(matvec(device_.card, args, stream_.get()), "multiplying a row");
        row += part.rows;
    }
}

bool CudaExecutor::stores_while_projecting(const DeviceLayer& w) const noexcept {
    const bool pairs_together = h_.rope_layout == RopeLayout::Interleaved || h_.rotary_dim == h_.head_dim;
    return w.qkv.merged() && w.q_norm == nullptr && memory_.cache.front().type != CacheType::Q8 && pairs_together;
}

void CudaExecutor::project_and_store_row(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    const LayerCache& cache = memory_.cache[layer];
    MatvecArgs args = row_product(w.qkv.parts.front(), {x(), VectorType::F32, w.attention_norm}, {qkv(), row_type(), false});
    args.bias = w.qkv.bias;
    args.kv = {
        .keys = cache.keys,
        .values = cache.values,
        .type = cache.type == CacheType::F16 ? VectorType::F16 : VectorType::BF16,
        .capacity = cache.capacity,
        .head_dim = h_.head_dim,
        .rotary_dim = h_.rotary_dim,
        .q_rows = h_.q_width(),
        .kv_rows = h_.kv_width(),
        .chunk_size = scheme_.chunk_size,
        .cos_sin = memory_.rotary.cos_sin,
        .length = memory_.length,
    };
    if (h_.rope_layout == RopeLayout::Halves) args.rows_apart = h_.head_dim / 2;
    check(matvec(device_.card, args, stream_.get()), "multiplying a row");
}

void CudaExecutor::project_qkv(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    if (rows_ == 1) {
        if (stores_while_projecting(w)) return project_and_store_row(layer);
        multiply_row(w.qkv, {x(), VectorType::F32, w.attention_norm}, {qkv(), row_type(), false});
    } else {
        norm(w.attention_norm);
        multiply(w.qkv, memory_.normed, {qkv(), qkv_width(), false, false});
    }
    if (w.q_norm == nullptr) return;
    const HeadNormArgs args{qkv(),      weights_.dtype(), rows_,    qkv_width(), h_.n_heads,     h_.n_kv_heads,
                            h_.head_dim, w.q_norm,         w.k_norm, h_.rms_epsilon};
    check(head_norm(device_.card, args, stream_.get()), "norming heads");
}

void CudaExecutor::store_keys_values(uint32_t layer) {
    if (rows_ == 1 && stores_while_projecting(weights_.layers()[layer])) return;
    const std::byte* keys = qkv() + size_t{2} * h_.q_width();
    const StoreArgs args{
        .shape = shape_,
        .scheme = scheme_,
        .cache = memory_.cache[layer],
        .rotary = memory_.rotary,
        .k = keys,
        .v = keys + size_t{2} * h_.kv_width(),
        .k_stride = qkv_width(),
        .v_stride = qkv_width(),
        .dtype = weights_.dtype(),
        .start = start_,
        .length = rows_ == 1 ? memory_.length : nullptr,
        .n_tokens = rows_,
    };
    check(cuda::store_keys_values(args, stream_.get()), "storing keys and values");
}

void CudaExecutor::keep_last_rows(uint32_t rows) {
    const uint32_t dropped = rows_ - rows;
    first_row_ += dropped;
    start_ += dropped;
    rows_ = rows;
}

void CudaExecutor::attend(uint32_t layer) {
    if (rows_ == 1) {
        const DecodeArgs args{
            .shape = shape_,
            .scheme = scheme_,
            .cache = memory_.cache[layer],
            .rotary = memory_.rotary,
            .q = qkv(),
            .out = memory_.attended,
            .dtype = weights_.dtype(),
            .length = memory_.length,
            .workspace = memory_.decode_workspace,
        };
        check(attention_decode(device_.card, args, stream_.get()), "attending");
        return;
    }
    const PrefillArgs args{
        .shape = shape_,
        .scheme = scheme_,
        .cache = memory_.cache[layer],
        .rotary = memory_.rotary,
        .q = qkv(),
        .out = memory_.attended,
        .q_stride = qkv_width(),
        .out_stride = h_.q_width(),
        .dtype = weights_.dtype(),
        .start = start_,
        .n_queries = rows_,
        .workspace = memory_.prefill_workspace,
        .workspace_bytes = memory_.prefill_bytes,
        .kernel = PrefillKernel::Auto,
    };
    check(attention_prefill(device_.card, args, stream_.get()), "attending");
}

void CudaExecutor::project_output(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    if (rows_ == 1) {
        multiply_row(w.output, {memory_.attended, row_type(), nullptr}, {x(), VectorType::F32, true});
    } else {
        multiply(w.output, memory_.attended, {x(), h_.n_embd, true, true});
    }
}

void CudaExecutor::feed_forward(uint32_t layer) {
    if (rows_ == 1) return feed_forward_row(layer);
    const DeviceLayer& w = weights_.layers()[layer];
    norm(w.ffn_norm);
    multiply(w.gate_up, memory_.normed, {memory_.gate_up, 2 * h_.n_ff, false, false});
    check(silu_multiply(memory_.gate_up, rows_, h_.n_ff, weights_.dtype(), memory_.gated, stream_.get()), "gating");
    multiply(w.down, memory_.gated, {x(), h_.n_embd, true, true});
}

void CudaExecutor::gate_row(const FusedMatrices& gate_up, const float* norm, uint32_t width) {
    const RowInput in{x(), VectorType::F32, norm};
    if (gate_up.merged()) {
        MatvecArgs args = row_product(gate_up.parts.front(), in, {memory_.gated_row, VectorType::F32, false});
        args.gated = true;
        args.rows_apart = width;
        check(matvec(device_.card, args, stream_.get()), "multiplying a row");
    } else {
        multiply_row(gate_up, in, {memory_.gate_up_row, VectorType::F32, false});
        check(silu_multiply_f32(device_.card, memory_.gate_up_row, 1, width, memory_.gated_row, stream_.get()), "gating");
    }
}

void CudaExecutor::feed_forward_row(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    gate_row(w.gate_up, w.ffn_norm, h_.n_ff);
    multiply_row(w.down, {memory_.gated_row, VectorType::F32, nullptr}, {x(), VectorType::F32, true});
}

void CudaExecutor::logits_row() {
    multiply_row(weights_.output(), {x(), VectorType::F32, weights_.output_norm()}, {memory_.logits, VectorType::F32, false});
    check(cudaMemcpyAsync(memory_.logits_row, memory_.logits, size_t{4} * h_.n_vocab, cudaMemcpyDeviceToHost, stream_.get()), "reading logits");
}

void CudaExecutor::logits(float* out) {
    const size_t n_vocab = h_.n_vocab;
    if (rows_ == 1) {
        if (!replayed_) logits_row();
        check(cudaStreamSynchronize(stream_.get()), "running the model");
        std::memcpy(out, memory_.logits_row, n_vocab * sizeof(float));
        return;
    }
    norm(weights_.output_norm());
    for (uint32_t first = 0; first < rows_; first += memory_.vocab_rows) {
        const uint32_t count = std::min(memory_.vocab_rows, rows_ - first);
        multiply(weights_.output().parts.front(), memory_.normed + size_t{first} * h_.n_embd * 2, nullptr, {memory_.logits, h_.n_vocab, true, false}, count);
        check(cudaMemcpyAsync(out + first * n_vocab, memory_.logits, count * n_vocab * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
              "reading logits");
    }
    check(cudaStreamSynchronize(stream_.get()), "running the model");
}

void CudaExecutor::nll(std::span<const int32_t> targets, float* out) {
    std::ranges::copy(targets, memory_.targets);
    const auto n_targets = static_cast<uint32_t>(targets.size());
    if (rows_ == 1) {
        logits_row();
        check(negative_log_likelihood(memory_.logits, 1, h_.n_vocab, memory_.targets, memory_.nll, stream_.get()), "scoring");
    } else {
        norm(weights_.output_norm());
        for (uint32_t first = 0; first < n_targets; first += memory_.vocab_rows) {
            const uint32_t count = std::min(memory_.vocab_rows, n_targets - first);
            multiply(weights_.output().parts.front(), memory_.normed + size_t{first} * h_.n_embd * 2, nullptr, {memory_.logits, h_.n_vocab, true, false}, count);
            check(negative_log_likelihood(memory_.logits, count, h_.n_vocab, memory_.targets + first, memory_.nll + first, stream_.get()), "scoring");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "running the model");
    std::memcpy(out, memory_.nll, targets.size() * sizeof(float));
}

void CudaExecutor::end() { check(cudaStreamSynchronize(stream_.get()), "running the model"); }

}  // namespace dca::cuda
