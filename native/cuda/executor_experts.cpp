// A mixture of experts: every token's feed-forward is done by the few experts its router picks.
//
// One token's experts stay on the card: kernels with a fixed grid read from its memory which they are,
// so that the recording of a step serves all of them. Many tokens are sorted by expert, and each
// expert's matrices are read, or dequantized, once for all of its tokens.
#include "cuda/linear/elementwise.h"
#include "cuda/executor.h"
#include "cuda/experts/order.h"
#include "cuda/experts/gather_scatter.h"
#include "cuda/experts/router.h"

namespace dca::cuda {

void CudaExecutor::feed_forward_experts(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    if (rows_ == 1) return feed_forward_experts_row(w);
    norm(w.ffn_norm, memory_.experts.factors);
    route(w);
    for (const ExpertRun& run : expert_runs({memory_.experts.counts, h_.n_experts}, memory_.block)) run_experts(w, run);
    if (h_.n_ff_shared > 0) run_shared_expert(w);
}

void CudaExecutor::choose(const DeviceLayer& w, const float* factors) {
    const ExpertMemory& m = memory_.experts;
    const ChooseArgs args{
        .logits = m.logits,
        .rows = rows_,
        .stride = router_rows(h_.n_experts),
        .factors = factors,
        .n_experts = h_.n_experts,
        .n_used = h_.n_experts_used,
        .normalised = h_.expert_weights_norm,
        .shared_gated = w.shared_gated,
        .scale = h_.expert_weights_scale,
        .experts = m.chosen,
        .weights = m.weights,
    };
    check(choose_experts(device_.card, args, stream_.get()), "choosing experts");
}

void CudaExecutor::route(const DeviceLayer& w) {
    const ExpertMemory& m = memory_.experts;
    const GemmArgs logits{
        .w = w.router,
        .x = x(),
        .y = m.logits,
        .tokens = rows_,
        .rows = router_rows(h_.n_experts),
        .cols = h_.n_embd,
        .y_stride = router_rows(h_.n_experts),
        .dtype = weights_.dtype(),
        .in_f32 = true,
        .y_f32 = true,
        .add = false,
        .bias = nullptr,
    };
    gemm_.multiply(logits, stream_.get());
    choose(w, m.factors);
    const SortArgs sort{m.chosen, rows_ * h_.n_experts_used, h_.n_experts, m.counts, m.pairs, m.places};
    check(sort_pairs(sort, stream_.get()), "sorting tokens by expert");
    // The only wait inside a step: the products' shapes are these counts, and the host chooses them.
    check(cudaStreamSynchronize(stream_.get()), "running the model");
}

void CudaExecutor::multiply_experts(const FusedMatrices& fused, const ExpertRun& run, const std::byte* in, const Output& out) {
    const size_t value_bytes = out.f32 ? 4 : 2;
    uint32_t column = 0;
    for (const Matrix& part : fused.parts) {
        uint32_t row = 0;
        for (uint32_t expert = run.first_expert; expert < run.end_expert; ++expert) {
            const uint32_t tokens = memory_.experts.counts[expert];
            if (tokens == 0) continue;
            Output here = out;
            here.to = static_cast<std::byte*>(out.to) + (size_t{row} * out.stride + column) * value_bytes;
            // Padding reads and writes rows of the experts to come, which write theirs afterwards, or behind the last.
            multiply(expert_matrix(part, expert), in + size_t{row} * part.cols * 2, nullptr, here, padded_tokens(tokens));
            row += tokens;
        }
        column += part.rows;
    }
}

void CudaExecutor::run_experts(const DeviceLayer& w, const ExpertRun& run) {
    const ExpertMemory& m = memory_.experts;
    const uint32_t rows = run.end_place - run.first_place;
    check(gather_tokens(memory_.normed, m.pairs + run.first_place, rows, h_.n_experts_used, h_.n_embd, m.gathered, stream_.get()), "gathering tokens");
    multiply_experts(w.gate_up, run, m.gathered, {memory_.gate_up, 2 * h_.n_ff_expert, false, false});
    check(silu_multiply(memory_.gate_up, rows, h_.n_ff_expert, weights_.dtype(), memory_.gated, stream_.get()), "gating");
    multiply_experts(w.down, run, memory_.gated, {m.results, h_.n_embd, true, false});
    const ScatterArgs scatter{
        .results = m.results,
        .places = m.places,
        .first_place = run.first_place,
        .end_place = run.end_place,
        .weights = m.weights,
        .rows = rows_,
        .n_used = h_.n_experts_used,
        .width = h_.n_embd,
        .x = x(),
    };
    check(scatter_results(scatter, stream_.get()), "adding experts");
}

void CudaExecutor::run_shared_expert(const DeviceLayer& w) {
    const ExpertMemory& m = memory_.experts;
    multiply(w.shared_gate_up, memory_.normed, {memory_.gate_up, 2 * h_.n_ff_shared, false, false});
    check(silu_multiply(memory_.gate_up, rows_, h_.n_ff_shared, weights_.dtype(), memory_.gated, stream_.get()), "gating");
    if (!w.shared_gated) return multiply(w.shared_down, memory_.gated, {x(), h_.n_embd, true, true});
    multiply(w.shared_down, memory_.gated, {m.results, h_.n_embd, true, false});
    const uint32_t stride = h_.n_experts_used + 1;
    check(add_weighted(m.results, m.weights + h_.n_experts_used, stride, rows_, h_.n_embd, x(), stream_.get()), "adding experts");
}

void CudaExecutor::multiply_chosen(const FusedMatrices& fused, const RowInput& in, uint32_t in_apart, float* out, uint32_t out_apart, bool gated) {
    uint32_t row = 0;
    for (const Matrix& part : fused.parts) {
        MatvecArgs first = row_product(part, in, {out + row, VectorType::F32, false});
        first.gated = gated;
        if (gated) first.rows_apart = part.rows / 2;
        const ExpertMatvecArgs args{first, memory_.experts.chosen, h_.n_experts_used, in_apart, out_apart};
        check(matvec_experts(device_.card, args, stream_.get()), "multiplying a row");
        row += part.rows;
    }
}

void CudaExecutor::feed_forward_experts_row(const DeviceLayer& w) {
    const ExpertMemory& m = memory_.experts;
    const uint32_t used = h_.n_experts_used, width = h_.n_ff_expert, n_logits = h_.n_experts + (w.shared_gated ? 1 : 0);
    check(router_logits_row(device_.card, x(), w.router, h_.rms_epsilon, h_.n_embd, n_logits, m.logits, stream_.get()), "routing");
    choose(w, nullptr);

    const RowInput in{x(), VectorType::F32, w.ffn_norm};
    if (w.gate_up.merged()) {
        multiply_chosen(w.gate_up, in, 0, memory_.gated_row, width, true);
    } else {
        multiply_chosen(w.gate_up, in, 0, memory_.gate_up_row, 2 * width, false);
        check(silu_multiply_f32(device_.card, memory_.gate_up_row, used, width, memory_.gated_row, stream_.get()), "gating");
    }
    multiply_chosen(w.down, {memory_.gated_row, VectorType::F32, nullptr}, width, m.results, h_.n_embd, false);
    if (h_.n_ff_shared > 0) {
        gate_row(w.shared_gate_up, w.ffn_norm, h_.n_ff_shared);
        multiply_row(w.shared_down, {memory_.gated_row, VectorType::F32, nullptr}, {m.results + size_t{used} * h_.n_embd, VectorType::F32, false});
    }
    const uint32_t terms = used + (h_.n_ff_shared > 0 ? 1 : 0);
    check(add_weighted_row(device_.card, m.results, m.weights, terms, h_.n_embd, x(), stream_.get()), "adding experts");
}

}  // namespace dca::cuda
