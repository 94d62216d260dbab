// From the residual stream to logits and log-likelihoods.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "cpu/executor/executor.h"

namespace dca::cpu {

namespace {

constexpr int kVocabPanels = 4;         // panels of logits held at once: n_vocab × 128 floats
constexpr int kVocabRows = 4096;        // rows that one task folds into the softmax
constexpr size_t kTransposedRows = 64;  // of all lanes of a panel: they stay in the first-level cache

/// Panels whose logits are held at once; all rows that are vectors.
int panels_at_once(PanelShape shape) { return shape.lanes == 1 ? std::max(shape.panels(), 1) : kVocabPanels; }

}  // namespace

PanelShape CpuExecutor::output_panels(int first) {
    const PanelShape part = shape_.part(first, panels_at_once(shape_));
    const size_t needed = size_t{h_.n_vocab} * part.lanes * part.panels();
    if (vocab_.size() < needed) vocab_ = Buffer<float>(needed);
    const Input in = make_input(normed_.panel(first, part.lanes), normed_.width, part, {&w_.output});
    multiply(w_.output, in, {.values = vocab_.data(), .width = static_cast<int>(h_.n_vocab)});
    if (h_.logit_scale == 1.0f && h_.logit_cap == 0.0f) return part;
    constexpr size_t piece = size_t{kVocabRows} * kPanelLanes;
    pool_.run(static_cast<int>((needed + piece - 1) / piece), [&](int task, int) {
        const size_t first_value = static_cast<size_t>(task) * piece;
        kernels_.scale_and_cap(vocab_.data() + first_value, h_.logit_scale, h_.logit_cap, std::min(piece, needed - first_value));
    });
    return part;
}

void CpuExecutor::copy_logits(PanelShape part, std::span<float* const> out) {
    const size_t n_vocab = h_.n_vocab;
    const int pieces = static_cast<int>((n_vocab + kVocabRows - 1) / kVocabRows);
    pool_.run(part.panels() * pieces, [&](int task, int) {
        const int p = task / pieces;
        const size_t begin = static_cast<size_t>(task % pieces) * kVocabRows;
        const size_t end = std::min(n_vocab, begin + kVocabRows);
        const float* panel = vocab_.data() + static_cast<size_t>(p) * n_vocab * part.lanes;
        for (size_t first = begin; first < end; first += kTransposedRows) {
            const size_t last = std::min(end, first + kTransposedRows);
            for (int lane = 0; lane < part.rows_of(p); ++lane) {
                float* row = out[static_cast<size_t>(p) * part.lanes + lane];
                for (size_t v = first; v < last; ++v) row[v] = panel[v * part.lanes + lane];
            }
        }
    });
}

void CpuExecutor::logits(std::span<float* const> out) {
    norm(x_, w_.output_norm, w_.output_norm_bias, normed_);
    for (int first = 0; first < shape_.panels(); first += panels_at_once(shape_)) {
        const PanelShape part = output_panels(first);
        copy_logits(part, out.subspan(static_cast<size_t>(first) * shape_.lanes, part.rows));
    }
}

void CpuExecutor::sample(std::span<SampleRequest* const> requests) {
    norm(x_, w_.output_norm, w_.output_norm_bias, normed_);
    const size_t n_vocab = exchange_ == nullptr ? h_.n_vocab : exchange_->n_vocab();  // of a whole row
    std::vector<float*> rows;
    std::atomic<bool> out_of_memory = false;
    for (int first = 0; first < shape_.panels(); first += panels_at_once(shape_)) {
        const PanelShape part = output_panels(first);
        if (exchange_ == nullptr && sampled_.size() < part.rows * n_vocab) sampled_ = Buffer<float>(part.rows * n_vocab);
        float* whole = exchange_ == nullptr ? sampled_.data() : exchange_->shared(rank_, part.rows * n_vocab);
        rows.resize(part.rows);
        for (size_t row = 0; row < rows.size(); ++row) rows[row] = whole + row * n_vocab;
        if (exchange_ == nullptr) {
            copy_logits(part, rows);
        } else {
            std::vector<float*> own(rows);
            for (float*& row : own) row += exchange_->first_token(rank_);
            copy_logits(part, own);
            exchange_->meet();
        }
        const uint32_t begin = exchange_ == nullptr ? 0 : exchange_->first_row(rank_, part.rows);
        const uint32_t end = exchange_ == nullptr ? part.rows : exchange_->first_row(rank_ + 1, part.rows);
        pool_.run(static_cast<int>(end - begin), [&](int i, int) {
            const uint32_t row = begin + static_cast<uint32_t>(i);
            try {
                dca::sample({rows[row], n_vocab}, *requests[static_cast<size_t>(first) * shape_.lanes + row]);
            } catch (...) {  // a pool's bodies must not throw, and memory is all that can fail here
                out_of_memory = true;
            }
        });
    }
    if (out_of_memory) throw std::bad_alloc();
}

void CpuExecutor::score(std::span<const int32_t> targets, TokenScore* out) {
    norm(x_, w_.output_norm, w_.output_norm_bias, normed_);
    const int n_vocab = static_cast<int>(h_.n_vocab);
    const int pieces = (n_vocab + kVocabRows - 1) / kVocabRows;
    const int lanes = shape_.lanes;
    std::vector<float> maximum, sum;
    for (int first = 0; first < shape_.panels() && static_cast<size_t>(first) * lanes < targets.size(); first += panels_at_once(shape_)) {
        const PanelShape part = output_panels(first);
        maximum.assign(static_cast<size_t>(part.panels()) * pieces * lanes, -INFINITY);
        sum.assign(maximum.size(), 0.0f);
        pool_.run(part.panels() * pieces, [&](int task, int) {
            const int row = task % pieces * kVocabRows;
            const float* panel = vocab_.data() + static_cast<size_t>(task / pieces) * n_vocab * lanes;
            kernels_.fold_exp_sum(panel + static_cast<size_t>(row) * lanes, std::min(kVocabRows, n_vocab - row), lanes,
                                  maximum.data() + static_cast<size_t>(task) * lanes, sum.data() + static_cast<size_t>(task) * lanes);
        });
        for (uint32_t at = 0; at < part.rows; ++at) {
            const size_t row = static_cast<size_t>(first) * lanes + at;
            if (row >= targets.size()) break;
            const int p = part.panel(at);
            const int lane = part.lane(at);
            const auto index = [&](int piece) { return (static_cast<size_t>(p) * pieces + piece) * lanes + lane; };
            float top = -INFINITY;
            for (int piece = 0; piece < pieces; ++piece) top = std::max(top, maximum[index(piece)]);
            double total = 0.0;
            for (int piece = 0; piece < pieces; ++piece) total += sum[index(piece)] * std::exp(double{maximum[index(piece)]} - top);
            const bool own = targets[row] >= 0;
            const float logit = own ? vocab_[(static_cast<size_t>(p) * n_vocab + targets[row]) * lanes + lane] : -INFINITY;
            out[row] = {std::isinf(top) ? top : top + std::log(total), logit};
        }
    }
}

}  // namespace dca::cpu
