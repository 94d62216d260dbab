// A mixture of experts: every token's feed-forward is done by the few experts its router picks.
// Prefill gathers the tokens of an expert into panels, so that its weights are dequantized once.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/executor/executor.h"

namespace dca::cpu {

void CpuExecutor::route() {
    for (Routed& routed : routed_) {
        routed.rows.clear();
        routed.weights.clear();
    }
    std::vector<float> probabilities(h_.n_experts);
    std::vector<uint32_t> order(h_.n_experts);
    const auto used = order.begin() + h_.n_experts_used;
    const int lanes = shape_.lanes;
    for (uint32_t row = 0; row < shape_.rows; ++row) {
        const float* logits = router_.panel(shape_.panel(row), lanes) + shape_.lane(row);
        float top = -INFINITY;
        for (uint32_t e = 0; e < h_.n_experts; ++e) top = std::max(top, logits[size_t{e} * lanes]);
        float total = 0.0f;
        for (uint32_t e = 0; e < h_.n_experts; ++e) total += probabilities[e] = std::exp(logits[size_t{e} * lanes] - top);
        std::iota(order.begin(), order.end(), 0u);
        const auto higher = [&](uint32_t a, uint32_t b) {
            return probabilities[a] != probabilities[b] ? probabilities[a] > probabilities[b] : a < b;
        };
        std::partial_sort(order.begin(), used, order.end(), higher);
        if (h_.expert_weights_norm) {
            total = std::accumulate(order.begin(), used, 0.0f, [&](float sum, uint32_t e) { return sum + probabilities[e]; });
        }
        for (auto e = order.begin(); e != used; ++e) {
            routed_[*e].rows.push_back(row);
            routed_[*e].weights.push_back(probabilities[*e] / total * h_.expert_weights_scale);
        }
    }
}

void CpuExecutor::run_expert(const LayerWeights& w, Activation& x, uint32_t expert, Activation& sum) {
    const Routed& routed = routed_[expert];
    if (routed.rows.empty()) return;
    const PanelShape shape = shape_of(static_cast<uint32_t>(routed.rows.size()));
    const uint32_t own = expert - w.first_expert;
    const Tensor down = w.expert_down.expert(own);
    const auto bias = [own](const std::vector<float>& of_all, uint32_t width) {
        return of_all.empty() ? std::span<const float>() : std::span(of_all).subspan(size_t{own} * width, width);
    };
    gather(x, shape_, routed.rows, shape, gathered_.memory.data());
    gated(w.expert_gate.expert(own), w.expert_up.expert(own), gathered_, shape, bias(w.expert_gate_bias, h_.n_ff_expert),
          bias(w.expert_up_bias, h_.n_ff_expert));
    multiply(down, make_input(gate_.memory.data(), gate_.width, shape, {&down}), output(expert_out_, bias(w.expert_down_bias, h_.n_embd)));
    for (size_t i = 0; i < routed.rows.size(); ++i) {
        const uint32_t row = routed.rows[i];
        const float* in = expert_out_.panel(shape.panel(i), shape.lanes) + shape.lane(i);
        float* out = sum.panel(shape_.panel(row), shape_.lanes) + shape_.lane(row);
        for (int f = 0; f < sum.width; ++f)
            out[static_cast<size_t>(f) * shape_.lanes] += routed.weights[i] * in[static_cast<size_t>(f) * shape.lanes];
    }
}

void CpuExecutor::run_shared_expert(const LayerWeights& w, Activation& x, Activation& sum) {
    gated(w.shared_gate, w.shared_up, x, shape_);
    multiply(w.shared_down, make_input(gate_.memory.data(), gate_.width, shape_, {&w.shared_down}), output(expert_out_));
    pool_.run(shape_.panels(), [&, lanes = shape_.lanes](int p, int) {
        const float* h = x.panel(p, lanes);
        const float* in = expert_out_.panel(p, lanes);
        float* out = sum.panel(p, lanes);
        for (int lane = 0; lane < lanes; ++lane) {
            float share = 1.0f;
            if (!w.shared_router.empty()) {
                float logit = 0.0f;
                for (uint32_t f = 0; f < h_.n_embd; ++f) logit += w.shared_router[f] * h[size_t{f} * lanes + lane];
                share = 1.0f / (1.0f + std::exp(-logit));
            }
            for (uint32_t f = 0; f < h_.n_embd; ++f) out[size_t{f} * lanes + lane] += share * in[size_t{f} * lanes + lane];
        }
    });
}

void CpuExecutor::feed_forward_experts(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    Activation& x = h_.norms == Norms::Parallel ? normed_ : normed(x_, w.ffn_norm, w.ffn_norm_bias);
    multiply(w.router, make_input(x.memory.data(), x.width, shape_, {&w.router}), output(router_, w.router_bias));
    route();
    const bool direct = adds_directly(w.ffn_post_norm);
    if (!direct) std::ranges::fill(std::span(branch_.memory.data(), branch_.memory.size()), 0.0f);
    Activation& sum = direct ? x_ : branch_;
    const auto own = static_cast<uint32_t>(w.expert_down.depth);
    for (uint32_t i = 0; i < own; ++i) run_expert(w, x, w.first_expert + i, sum);
    if (h_.n_ff_shared != 0) run_shared_expert(w, x, sum);
    if (!direct) add_branch(w.ffn_post_norm);
}

}  // namespace dca::cpu
