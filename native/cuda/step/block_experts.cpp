// A mixture of experts over many tokens: they are sorted by expert, and each expert's matrices are read,
// or dequantized, once for all of its tokens.
#include "cuda/step/block_step.h"
#include "cuda/experts/gather_scatter.h"
#include "cuda/experts/order.h"
#include "cuda/experts/router.h"
#include "cuda/linear/elementwise.h"

namespace dca::cuda {

void BlockStep::feed_forward_experts(uint32_t layer) {
    const DeviceLayer& w = weights_.layers()[layer];
    state_.norm(w.ffn_norm, memory_.experts.factors);
    route(w);
    const StepState::Sum sum = state_.ffn_sum(w);
    if (!sum.add) {
        check(cudaMemsetAsync(sum.to, 0, size_t{state_.rows} * h_.n_embd * sizeof(float), state_.stream.get()), "adding experts");
    }
    const std::span<const uint32_t> counts(memory_.experts.counts, h_.n_experts);
    for (const ExpertRun& run : expert_runs(counts, w.own_experts, memory_.block)) run_experts(w, run, sum.to);
    if (h_.n_ff_shared > 0) run_shared_expert(w, sum.to);
    state_.end_ffn(w);
}

void BlockStep::route(const DeviceLayer& w) {
    const ExpertMemory& m = memory_.experts;
    const GemmArgs logits{
        .w = w.router,
        .x = state_.x(),
        .y = m.logits,
        .tokens = state_.rows,
        .rows = router_rows(h_.n_experts),
        .cols = h_.n_embd,
        .y_stride = router_rows(h_.n_experts),
        .dtype = weights_.dtype(),
        .in_f32 = true,
        .y_f32 = true,
        .add = false,
        .bias = nullptr,
    };
    gemm_.multiply(logits, state_.stream.get());
    state_.choose_experts(w, m.factors);
    const SortArgs sort{m.chosen, state_.rows * h_.n_experts_used, h_.n_experts, m.counts, m.pairs, m.places};
    check(sort_pairs(sort, state_.stream.get()), "sorting tokens by expert");
    // The only wait inside a step: the products' shapes are these counts, and the host chooses them.
    state_.wait();
}

void BlockStep::multiply_experts(const FusedMatrices& fused, const OwnExperts& own_experts, const ExpertRun& run, const std::byte* in,
                                 const Output& out) {
    const size_t value_bytes = out.f32 ? 4 : 2;
    const std::byte* biases = static_cast<const std::byte*>(out.f32 ? fused.bias : fused.bias_16);
    uint32_t column = 0;
    for (const Matrix& part : fused.parts) {
        uint32_t row = 0;
        for (uint32_t expert = run.first_expert; expert < run.end_expert; ++expert) {
            const uint32_t tokens = memory_.experts.counts[expert], own = expert - own_experts.first;
            if (tokens == 0) continue;
            Output here = out;
            here.to = static_cast<std::byte*>(out.to) + (size_t{row} * out.stride + column) * value_bytes;
            const std::byte* bias = biases == nullptr ? nullptr : biases + (size_t{own} * fused.rows + column) * value_bytes;
            // Padding reads and writes rows of the experts to come, which write theirs afterwards, or behind the last.
            multiply(expert_matrix(part, own), in + size_t{row} * part.cols * 2, bias, here, padded_tokens(tokens));
            row += tokens;
        }
        column += part.rows;
    }
}

void BlockStep::run_experts(const DeviceLayer& w, const ExpertRun& run, float* sum) {
    const ExpertMemory& m = memory_.experts;
    const uint32_t rows = run.end_place - run.first_place;
    check(gather_tokens(memory_.normed, m.pairs + run.first_place, rows, h_.n_experts_used, h_.n_embd, m.gathered, state_.stream.get()),
          "gathering tokens");
    multiply_experts(w.gate_up, w.own_experts, run, m.gathered, {memory_.gate_up, 2 * h_.n_ff_expert, false, false});
    check(gate_multiply(state_.device.card, h_.activation, memory_.gate_up, rows, h_.n_ff_expert, weights_.dtype(), memory_.gated,
                        state_.stream.get()),
          "gating");
    multiply_experts(w.down, w.own_experts, run, memory_.gated, {m.results, h_.n_embd, true, false});
    const ScatterArgs scatter{
        .results = m.results,
        .places = m.places,
        .first_place = run.first_place,
        .end_place = run.end_place,
        .weights = m.weights,
        .rows = state_.rows,
        .n_used = h_.n_experts_used,
        .width = h_.n_embd,
        .x = sum,
    };
    check(scatter_results(scatter, state_.stream.get()), "adding experts");
}

void BlockStep::run_shared_expert(const DeviceLayer& w, float* sum) {
    const ExpertMemory& m = memory_.experts;
    gate(w.shared_gate_up, h_.n_ff_shared);
    if (!w.shared_gated) return multiply(w.shared_down, memory_.gated, {sum, h_.n_embd, true, true});
    multiply(w.shared_down, memory_.gated, {m.results, h_.n_embd, true, false});
    const uint32_t stride = h_.n_experts_used + 1;
    check(add_weighted(m.results, m.weights + h_.n_experts_used, stride, state_.rows, h_.n_embd, sum, state_.stream.get()),
          "adding experts");
}

}  // namespace dca::cuda
