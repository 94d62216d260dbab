// The attention of a step: which keys each query sees at which rotation (core/scheme.h), and how
// that is spread over threads.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/executor.h"

namespace dca::cpu {

namespace {

constexpr uint32_t keys_a_piece = 256;  // decode: fewer keys are not worth a piece of their own

}  // namespace

void CpuExecutor::load_rotation(Worker& worker, uint32_t first, QueryPosition kind) const {
    const int lanes = shape_.lanes;
    for (int lane = 0; lane < lanes; ++lane) {
        // Lanes past the last row may stand beyond the table; their results are never read.
        const uint32_t i = std::min(first + lane, start_ + shape_.rows - 1);
        const uint32_t position = kind == QueryPosition::Successive ? scheme_.successive_position(i)
                                  : kind == QueryPosition::Inter    ? scheme_.inter_position()
                                                                    : scheme_.key_position(i);
        const float* cos = rope_.cos_row(position);
        const float* sin = rope_.sin_row(position);
        for (uint32_t j = 0; j < rope_.n_frequencies; ++j) {
            worker.cos[size_t{j} * lanes + lane] = cos[j];
            worker.sin[size_t{j} * lanes + lane] = sin[j];
        }
        // Scores are kept times log2(e), so that the softmax is in powers of two.
        constexpr float log2_e = 1.4426950408889634f;
        worker.factor[lane] =
            kind == QueryPosition::Key ? 1.0f : scheme_.logit_factor(i) * log2_e / std::sqrt(static_cast<float>(h_.head_dim));
    }
}

void CpuExecutor::store_keys_values(uint32_t layer) {
    const auto type = static_cast<size_t>(cache_.type());
    const int head_dim = static_cast<int>(h_.head_dim);
    const int lanes = shape_.lanes;
    pool_.run(shape_.panels(), [&](int p, int worker_index) {
        Worker& worker = workers_[worker_index];
        const uint32_t first = start_ + static_cast<uint32_t>(p * lanes);
        const int count = shape_.rows_of(p);
        load_rotation(worker, first, QueryPosition::Key);
        for (uint32_t head = 0; head < h_.n_kv_heads; ++head) {
            const size_t at = size_t{head} * h_.head_dim * lanes;
            float* rotated = worker.q.data();
            kernels_.rotate(k_.panel(p, lanes) + at, rotated, head_dim, static_cast<int>(rope_.n_frequencies), rope_.layout, lanes,
                            worker.cos.data(), worker.sin.data(), worker.factor.data());
            kernels_.store_keys[type](rotated, head_dim, lanes, count, cache_.keys(layer, head), cache_.key_scales(layer, head), first);
            kernels_.store_values[type](v_.panel(p, lanes) + at, head_dim, lanes, count, cache_.values(layer, head),
                                        cache_.value_scales(layer, head), first);
        }
    });
}

void CpuExecutor::rotate_queries(Worker& worker, uint32_t kv_head, int panel, uint32_t first_query, QueryPosition kind) {
    const int lanes = shape_.lanes;
    load_rotation(worker, first_query, kind);
    const size_t head_values = size_t{h_.head_dim} * lanes;
    const float* q = q_.panel(panel, lanes) + size_t{kv_head} * group_ * head_values;
    for (int g = 0; g < group_; ++g) {
        kernels_.rotate(q + g * head_values, worker.q.data() + g * head_values, static_cast<int>(h_.head_dim),
                        static_cast<int>(rope_.n_frequencies), rope_.layout, lanes, worker.cos.data(), worker.sin.data(),
                        worker.factor.data());
    }
}

void CpuExecutor::attend(uint32_t layer) {
    if (shape_.lanes == 1) return attend_rows(layer);
    const int heads = static_cast<int>(h_.n_kv_heads);
    const int panels = shape_.panels();
    pool_.run(panels * heads, [&](int task, int worker) {
        // Later panels see more keys: the long tasks go first.
        attend_panel(layer, static_cast<uint32_t>(task % heads), panels - 1 - task / heads, workers_[worker]);
    });
}

void CpuExecutor::attend_panel(uint32_t layer, uint32_t kv_head, int panel, Worker& worker) {
    const size_t head_values = size_t{h_.head_dim} * panel_lanes;
    const uint32_t first_query = start_ + static_cast<uint32_t>(panel * panel_lanes);
    const uint32_t last_query = std::min(first_query + panel_lanes, start_ + shape_.rows) - 1;
    // A panel that straddles a chunk border runs once a chunk and keeps that chunk's lanes.
    for (uint32_t begin = first_query; begin <= last_query;) {
        const KeyRanges ranges = key_ranges(scheme_, begin);
        const uint32_t end = std::min<uint64_t>(last_query, uint64_t{ranges.successive_end} + scheme_.chunk_size - 1) + 1;
        std::fill_n(worker.out.data(), head_values * group_, 0.0f);
        std::fill_n(worker.maximum.data(), size_t(group_) * panel_lanes, -INFINITY);
        std::fill_n(worker.sum.data(), size_t(group_) * panel_lanes, 0.0f);
        const auto walk = [&](KeySpan span, QueryPosition kind) {
            if (span.begin >= span.end) return;
            rotate_queries(worker, kv_head, panel, first_query, kind);
            kernels_.attend_panel[static_cast<size_t>(cache_.type())]({.q = worker.q.data(),
                                                                       .out = worker.out.data(),
                                                                       .maximum = worker.maximum.data(),
                                                                       .sum = worker.sum.data(),
                                                                       .group = group_,
                                                                       .head_dim = static_cast<int>(h_.head_dim),
                                                                       .cache = cache_.view(layer, kv_head),
                                                                       .span = span,
                                                                       .first_query = first_query,
                                                                       .scratch = worker.attention.data()});
        };
        walk({ranges.begin, ranges.inter_end}, QueryPosition::Inter);
        walk({ranges.inter_end, ranges.successive_end}, QueryPosition::Successive);
        walk({ranges.successive_end, end}, QueryPosition::Intra);

        float* out = a_.panel(panel, panel_lanes) + size_t{kv_head} * group_ * head_values;
        const uint32_t first_lane = begin - first_query;
        const uint32_t last_lane = end - first_query;
        for (int g = 0; g < group_; ++g) {
            float inverse[panel_lanes];
            for (int lane = 0; lane < panel_lanes; ++lane) inverse[lane] = 1.0f / worker.sum[g * panel_lanes + lane];
            for (uint32_t d = 0; d < h_.head_dim; ++d) {
                const size_t at = g * head_values + d * panel_lanes;
                for (uint32_t lane = first_lane; lane < last_lane; ++lane) out[at + lane] = worker.out[at + lane] * inverse[lane];
            }
        }
        begin = end;
    }
}

size_t CpuExecutor::partial_floats() const noexcept { return size_t(group_) * (h_.head_dim + 2); }

/// One query's heads of a key head against the keys of `piece`; partial gets out, maximum, sum.
void CpuExecutor::attend_piece(uint32_t layer, uint32_t kv_head, int row, KeySpan piece, float* partial, Worker& worker) {
    const uint32_t query = start_ + static_cast<uint32_t>(row);
    const KeyRanges ranges = key_ranges(scheme_, query);
    float* maximum = partial + size_t(group_) * h_.head_dim;
    float* sum = maximum + group_;
    std::fill_n(partial, size_t(group_) * h_.head_dim, 0.0f);
    std::fill_n(maximum, group_, -INFINITY);
    std::fill_n(sum, group_, 0.0f);
    const auto walk = [&](KeySpan range, QueryPosition kind) {
        const KeySpan span{std::max(range.begin, piece.begin), std::min(range.end, piece.end)};
        if (span.begin >= span.end) return;
        rotate_queries(worker, kv_head, row, query, kind);
        kernels_.attend_row[static_cast<size_t>(cache_.type())]({.q = worker.q.data(),
                                                                 .out = partial,
                                                                 .maximum = maximum,
                                                                 .sum = sum,
                                                                 .group = group_,
                                                                 .head_dim = static_cast<int>(h_.head_dim),
                                                                 .cache = cache_.view(layer, kv_head),
                                                                 .span = span});
    };
    walk({ranges.begin, ranges.inter_end}, QueryPosition::Inter);
    walk({ranges.inter_end, ranges.successive_end}, QueryPosition::Successive);
    walk({ranges.successive_end, query + 1}, QueryPosition::Intra);
}

void CpuExecutor::attend_rows(uint32_t layer) {
    const auto rows = static_cast<int>(shape_.rows);
    const auto heads = static_cast<int>(h_.n_kv_heads);
    const uint32_t keys = start_ + shape_.rows;
    const int enough = (4 * pool_.threads() + rows * heads - 1) / (rows * heads);
    const int pieces = std::clamp(static_cast<int>(keys / keys_a_piece), 1, enough);
    const size_t stride = partial_floats();
    const size_t needed = stride * rows * heads * pieces;
    if (partials_.size() < needed) partials_ = Buffer<float>(needed);

    pool_.run(rows * heads * pieces, [&](int task, int worker) {
        const int piece = task % pieces;
        const int head = task / pieces % heads;
        const int row = task / pieces / heads;
        const KeyRanges ranges = key_ranges(scheme_, start_ + static_cast<uint32_t>(row));
        const uint64_t seen = start_ + static_cast<uint32_t>(row) + 1 - ranges.begin;
        const auto border = [&](int p) {
            const uint32_t at = ranges.begin + static_cast<uint32_t>(seen * p / pieces);
            return p == 0 || p == pieces ? at : at / panel_lanes * panel_lanes;
        };
        const KeySpan span{std::max(ranges.begin, border(piece)), std::max(ranges.begin, border(piece + 1))};
        attend_piece(layer, static_cast<uint32_t>(head), row, span, partials_.data() + task * stride, workers_[worker]);
    });

    // The pieces' softmaxes are merged at their common maximum.
    for (int row = 0; row < rows; ++row) {
        for (int head = 0; head < heads * group_; ++head) {
            const int g = head % group_;
            const float* first = partials_.data() + (size_t(row) * heads + head / group_) * pieces * stride;
            const auto maximum = [&](int piece) { return first[piece * stride + size_t(group_) * h_.head_dim + g]; };
            const auto sum = [&](int piece) { return first[piece * stride + size_t(group_) * h_.head_dim + group_ + g]; };
            float top = -INFINITY;
            for (int piece = 0; piece < pieces; ++piece) top = std::max(top, maximum(piece));
            float total = 0.0f;
            float* out = a_.panel(row, 1) + size_t(head) * h_.head_dim;
            std::fill_n(out, h_.head_dim, 0.0f);
            for (int piece = 0; piece < pieces; ++piece) {
                const float share = std::exp2(maximum(piece) - top);
                total += share * sum(piece);
                const float* part = first + piece * stride + size_t(g) * h_.head_dim;
                for (uint32_t d = 0; d < h_.head_dim; ++d) out[d] += share * part[d];
            }
            for (uint32_t d = 0; d < h_.head_dim; ++d) out[d] /= total;
        }
    }
}

}  // namespace dca::cpu
