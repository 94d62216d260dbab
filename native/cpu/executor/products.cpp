// Products of a matrix and rows in panels: how they are split over threads, and which kernels run them.
#include <algorithm>

#include "cpu/executor/executor.h"

namespace dca::cpu {

namespace {

constexpr int kDecodeTasksAThread = 2;
constexpr int kDecodeRows = 512;  // of weights that one call of a kernel walks

}  // namespace

int CpuExecutor::group_rows(const Tensor& w, PanelShape shape) const noexcept {
    if (shape.lanes != 1) return kGemmRows;
    // Decode reads at memory speed only in long runs: the processor's prefetch starts anew with each task.
    const int64_t tasks = int64_t{kDecodeTasksAThread} * pool_.threads();
    const int64_t rows = (w.rows + tasks - 1) / tasks;
    return static_cast<int>(std::max<int64_t>(kGemmRows, (rows + kPackedRows - 1) / kPackedRows * kPackedRows));
}

int CpuExecutor::row_groups(const Tensor& w, PanelShape shape) const noexcept {
    const int rows = group_rows(w, shape);
    return static_cast<int>((w.rows + rows - 1) / rows);
}

CpuExecutor::RowSpan CpuExecutor::row_group(const Tensor& w, PanelShape shape, int group) const noexcept {
    const int rows = group_rows(w, shape);
    return {group * rows, static_cast<int>(std::min<int64_t>(rows, w.rows - int64_t{group} * rows))};
}

CpuExecutor::Input CpuExecutor::make_input(const float* x, int cols, PanelShape shape, std::initializer_list<const Tensor*> readers) {
    if (squares_ != nullptr) add_squares(x, cols, shape, readers);
    const bool pack = std::ranges::any_of(readers, [&](const Tensor* reader) { return packed_.find(*reader) != nullptr; });
    if (!pack) return {x, nullptr, shape};
    const auto tokens = static_cast<int>(shape.rows);
    if (shape.lanes == 1) {
        kernels_.packed->pack_tokens(x, 1, tokens, cols, packed_x_.data());
    } else {
        const size_t bundle_bytes = packed_token_bytes(kPackedBundle, cols);
        pool_.run((tokens + kPackedBundle - 1) / kPackedBundle, [&](int bundle, int) {
            const int token = bundle * kPackedBundle;
            const float* lane = x + static_cast<size_t>(shape.panel(token)) * cols * shape.lanes + shape.lane(token);
            kernels_.packed->pack_tokens(lane, shape.lanes, kPackedBundle, cols, packed_x_.data() + bundle * bundle_bytes);
        });
    }
    return {x, packed_x_.data(), shape};
}

void CpuExecutor::multiply_rows(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker) {
    if (const std::byte* groups = packed_.find(w)) return multiply_packed(w, groups, span, in, out);
    if (in.shape.lanes == 1) return multiply_vectors(w, span, in, out);
    multiply_panels(w, span, in, out, worker);
}

void CpuExecutor::multiply_packed(const Tensor& w, const std::byte* groups, RowSpan span, const Input& in, const Output& out) {
    kernels_.packed->multiply({.type = w.type,
                               .w = groups + static_cast<size_t>(span.first / kPackedRows) * packed_group_bytes(w.type, w.cols),
                               .rows = span.count,
                               .cols = static_cast<int>(w.cols),
                               .x = in.packed,
                               .tokens = static_cast<int>(in.shape.rows),
                               .lanes = in.shape.lanes,
                               .y = out.values + static_cast<size_t>(span.first) * in.shape.lanes,
                               .y_panel_stride = static_cast<size_t>(out.width) * in.shape.lanes,
                               .bias = out.bias == nullptr ? nullptr : out.bias + span.first,
                               .accumulate = out.accumulate});
}

void CpuExecutor::multiply_vectors(const Tensor& w, RowSpan span, const Input& in, const Output& out) {
    const auto cols = static_cast<int>(w.cols);
    const auto tokens = static_cast<int>(in.shape.rows);
    const PackedWeights::Rows rows = packed_.rows(w);
    const auto keep = [&](int t, int row, int count, const float* result) {
        float* y = out.values + static_cast<size_t>(t) * out.width + span.first + row;
        for (int r = 0; r < count; ++r) {
            const float value = result[r] + (out.bias != nullptr ? out.bias[span.first + row + r] : 0.0f);
            y[r] = out.accumulate ? y[r] + value : value;
        }
    };
    // The kernel walks long runs of rows; for several tokens it keeps to what the first-level cache holds of results.
    constexpr int most_tokens = kDecodeRows / kGemmRows;
    float result[kDecodeRows];
    const int longest = tokens == 1 ? kDecodeRows : kGemmRows;
    for (int row = 0; row < span.count; row += longest) {
        const int piece = std::min(longest, span.count - row);
        const std::byte* first = rows.at(span.first + row);
        if (tokens == 1) {
            kernels_.dot_rows(w.type, first, rows.step, piece, in.values, cols, result);
            keep(0, row, piece, result);
            continue;
        }
        for (int t = 0; t < tokens; t += most_tokens) {
            const int together = std::min(most_tokens, tokens - t);
            kernels_.dot_tokens({.type = w.type,
                                 .w = first,
                                 .row_bytes = rows.step,
                                 .rows = piece,
                                 .x = in.values + static_cast<size_t>(t) * cols,
                                 .x_stride = static_cast<size_t>(cols),
                                 .tokens = together,
                                 .cols = cols,
                                 .y = result,
                                 .y_stride = kGemmRows});
            for (int i = 0; i < together; ++i) keep(t + i, row, piece, result + i * kGemmRows);
        }
    }
}

void CpuExecutor::multiply_panels(const Tensor& w, RowSpan span, const Input& in, const Output& out, Worker& worker) {
    const auto cols = static_cast<int>(w.cols);
    const int lanes = in.shape.lanes;
    const int panels = in.shape.panels();
    const PackedWeights::Rows rows = packed_.rows(w);
    const size_t y_stride = static_cast<size_t>(out.width) * lanes;
    float* y = out.values + static_cast<size_t>(span.first) * lanes;
    if (out.bias != nullptr) {
        for (int p = 0; p < panels; ++p) {
            for (int r = 0; r < span.count; ++r) {
                float* row = y + p * y_stride + static_cast<size_t>(r) * lanes;
                for (int lane = 0; lane < lanes; ++lane) row[lane] = (out.accumulate ? row[lane] : 0.0f) + out.bias[span.first + r];
            }
        }
    }
    const BlockInfo& info = block_info(w.type);
    for (int col = 0; col < cols; col += kGemmCols) {
        const int width = std::min(kGemmCols, cols - col);
        const int64_t offset = int64_t{col} / info.block_size * info.block_bytes;
        for (int r = 0; r < span.count; ++r) {
            decode_blocks(w.type, rows.at(span.first + r) + offset, width, worker.weights.data() + r * kGemmStride);
        }
        kernels_.gemm({.a = worker.weights.data(),
                       .rows = span.count,
                       .cols = width,
                       .b = in.values + static_cast<size_t>(col) * lanes,
                       .b_panel_stride = static_cast<size_t>(cols) * lanes,
                       .c = y,
                       .c_panel_stride = y_stride,
                       .panels = panels,
                       .accumulate = out.accumulate || out.bias != nullptr || col != 0,
                       .last_lanes = in.shape.rows_of(panels - 1)});
    }
}

void CpuExecutor::multiply(const Tensor& w, const Input& in, const Output& out) {
    pool_.run(row_groups(w, in.shape),
              [&](int group, int worker) { multiply_rows(w, row_group(w, in.shape, group), in, out, workers_[worker]); });
}

void CpuExecutor::gated(const Tensor& w_gate, const Tensor& w_up, Activation& x, PanelShape shape, std::span<const float> gate_bias,
                        std::span<const float> up_bias) {
    const auto gate_multiply = kernels_.gate_multiply[static_cast<size_t>(h_.activation)];
    gate_.width = up_.width = static_cast<int>(w_gate.rows);
    const Input in = make_input(x.memory.data(), x.width, shape, {&w_gate, &w_up});
    pool_.run(row_groups(w_gate, shape), [&](int group, int worker) {
        const RowSpan span = row_group(w_gate, shape, group);
        multiply_rows(w_gate, span, in, output(gate_, gate_bias), workers_[worker]);
        multiply_rows(w_up, span, in, output(up_, up_bias), workers_[worker]);
        const size_t at = static_cast<size_t>(span.first) * shape.lanes;
        constexpr int vector_lanes = 16;
        for (int p = 0; p < shape.panels(); ++p) {
            float* gate = gate_.panel(p, shape.lanes) + at;
            const float* up = up_.panel(p, shape.lanes) + at;
            if (shape.lanes == 1 || shape.rows_of(p) > vector_lanes) {
                gate_multiply(gate, up, static_cast<size_t>(span.count) * shape.lanes);
                continue;
            }
            for (int f = 0; f < span.count; ++f) gate_multiply(gate + f * shape.lanes, up + f * shape.lanes, vector_lanes);
        }
    });
}

}  // namespace dca::cpu
