// From the residual stream to logits and log-likelihoods.
#include <algorithm>
#include <cmath>

#include "cpu/executor.h"

namespace dca::cpu {

namespace {

constexpr int vocab_panels = 4;   // panels of logits held at once: n_vocab × 128 floats
constexpr int vocab_rows = 4096;  // rows that one task folds into the softmax

}  // namespace

int CpuExecutor::output_panels(int first) {
    const int count = std::min(vocab_panels, panels_ - first);
    const size_t needed = size_t{h_.n_vocab} * lanes_ * count;
    if (vocab_.size() < needed) vocab_ = Buffer<float>(needed);
    const int all_panels = panels_;
    panels_ = count;
    const int tokens = std::min(static_cast<int>(rows_) - first * lanes_, count * lanes_);
    pack_input(normed_.panel(first, lanes_), normed_.width, tokens, {&w_.output});
    pool_.run(row_groups(w_.output), [&](int group, int worker) {
        const auto [row, count_of_rows] = row_group(w_.output, group);
        multiply_rows(w_.output, row, count_of_rows, normed_.panel(first, lanes_),
                      vocab_.data(), static_cast<int>(h_.n_vocab), nullptr, false, workers_[worker]);
    });
    panels_ = all_panels;
    return count;
}

void CpuExecutor::logits(float* out) {
    norm(x_, w_.output_norm, normed_);
    const size_t n_vocab = h_.n_vocab;
    for (int first = 0; first < panels_; first += vocab_panels) {
        const int count = output_panels(first);
        const int pieces = static_cast<int>((n_vocab + vocab_rows - 1) / vocab_rows);
        pool_.run(count * pieces, [&](int task, int) {
            const int p = task / pieces;
            const size_t begin = size_t(task % pieces) * vocab_rows;
            const size_t end = std::min(n_vocab, begin + vocab_rows);
            const float* panel = vocab_.data() + size_t(p) * n_vocab * lanes_;
            for (int lane = 0; lane < lanes_; ++lane) {
                const size_t row = size_t(first + p) * lanes_ + lane;
                if (row >= rows_) break;
                for (size_t v = begin; v < end; ++v) out[row * n_vocab + v] = panel[v * lanes_ + lane];
            }
        });
    }
}

void CpuExecutor::nll(std::span<const int32_t> targets, float* out) {
    norm(x_, w_.output_norm, normed_);
    const int n_vocab = static_cast<int>(h_.n_vocab);
    const int pieces = (n_vocab + vocab_rows - 1) / vocab_rows;
    std::vector<float> maximum, sum;
    for (int first = 0; first < panels_ && size_t(first) * lanes_ < targets.size(); first += vocab_panels) {
        const int count = output_panels(first);
        maximum.assign(size_t(count) * pieces * lanes_, -INFINITY);
        sum.assign(maximum.size(), 0.0f);
        pool_.run(count * pieces, [&](int task, int) {
            const int row = task % pieces * vocab_rows;
            const float* panel = vocab_.data() + size_t(task / pieces) * n_vocab * lanes_;
            kernels_.fold_exp_sum(panel + size_t(row) * lanes_, std::min(vocab_rows, n_vocab - row), lanes_,
                                  maximum.data() + size_t(task) * lanes_, sum.data() + size_t(task) * lanes_);
        });
        for (int at = 0; at < count * lanes_; ++at) {
            const size_t row = size_t(first) * lanes_ + at;
            if (row >= targets.size()) break;
            const int p = at / lanes_;
            const int lane = at % lanes_;
            const auto index = [&](int piece) { return (size_t(p) * pieces + piece) * lanes_ + lane; };
            float top = -INFINITY;
            for (int piece = 0; piece < pieces; ++piece) top = std::max(top, maximum[index(piece)]);
            double total = 0.0;
            for (int piece = 0; piece < pieces; ++piece) total += sum[index(piece)] * std::exp(double{maximum[index(piece)]} - top);
            const float logit = vocab_[(size_t(p) * n_vocab + targets[row]) * lanes_ + lane];
            out[row] = static_cast<float>(top + std::log(total) - logit);
        }
    }
}

}  // namespace dca::cpu
