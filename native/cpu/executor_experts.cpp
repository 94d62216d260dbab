// A mixture of experts: every token's feed-forward is done by the few experts its router picks.
// Prefill gathers the tokens of an expert into panels, so that its weights are decoded once.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu/executor.h"

namespace dca::cpu {

void CpuExecutor::route() {
    for (Routed& routed : routed_) {
        routed.rows.clear();
        routed.weights.clear();
    }
    std::vector<float> probabilities(h_.n_experts);
    std::vector<uint32_t> order(h_.n_experts);
    const auto used = order.begin() + h_.n_experts_used;
    for (uint32_t row = 0; row < rows_; ++row) {
        const float* logits = router_.panel(static_cast<int>(row / lanes_), lanes_) + row % lanes_;
        float top = -INFINITY;
        for (uint32_t e = 0; e < h_.n_experts; ++e) top = std::max(top, logits[size_t{e} * lanes_]);
        float total = 0.0f;
        for (uint32_t e = 0; e < h_.n_experts; ++e) total += probabilities[e] = std::exp(logits[size_t{e} * lanes_] - top);
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

void CpuExecutor::run_expert(const LayerWeights& w, uint32_t expert) {
    const Routed& routed = routed_[expert];
    if (routed.rows.empty()) return;
    const uint32_t all_rows = rows_;
    const int all_lanes = lanes_;
    set_rows(static_cast<uint32_t>(routed.rows.size()), start_);
    gather(normed_, all_lanes, routed.rows, gathered_.memory.data());
    gated(w.expert_gate.expert(expert), w.expert_up.expert(expert), gathered_, gate_, up_);
    multiply(w.expert_down.expert(expert), gate_, expert_out_, {}, false);
    for (size_t i = 0; i < routed.rows.size(); ++i) {
        const uint32_t row = routed.rows[i];
        const float* in = expert_out_.panel(static_cast<int>(i / lanes_), lanes_) + i % lanes_;
        float* out = x_.panel(static_cast<int>(row / all_lanes), all_lanes) + row % all_lanes;
        for (int f = 0; f < x_.width; ++f) out[size_t(f) * all_lanes] += routed.weights[i] * in[size_t(f) * lanes_];
    }
    set_rows(all_rows, start_);
}

void CpuExecutor::run_shared_expert(const LayerWeights& w) {
    gated(w.shared_gate, w.shared_up, normed_, gate_, up_);
    multiply(w.shared_down, gate_, expert_out_, {}, false);
    pool_.run(panels_, [&](int p, int) {
        const float* h = normed_.panel(p, lanes_);
        const float* in = expert_out_.panel(p, lanes_);
        float* out = x_.panel(p, lanes_);
        for (int lane = 0; lane < lanes_; ++lane) {
            float share = 1.0f;
            if (!w.shared_router.empty()) {
                float logit = 0.0f;
                for (uint32_t f = 0; f < h_.n_embd; ++f) logit += w.shared_router[f] * h[size_t{f} * lanes_ + lane];
                share = 1.0f / (1.0f + std::exp(-logit));
            }
            for (uint32_t f = 0; f < h_.n_embd; ++f) out[size_t{f} * lanes_ + lane] += share * in[size_t{f} * lanes_ + lane];
        }
    });
}

void CpuExecutor::feed_forward_experts(uint32_t layer) {
    const LayerWeights& w = w_.layers[layer];
    norm(x_, w.ffn_norm, normed_);
    multiply(w.router, normed_, router_, {}, false);
    route();
    for (uint32_t expert = 0; expert < h_.n_experts; ++expert) run_expert(w, expert);
    if (h_.n_ff_shared != 0) run_shared_expert(w);
}

}  // namespace dca::cpu
