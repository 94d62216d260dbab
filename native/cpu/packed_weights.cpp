#include "cpu/packed_weights.h"

#include <algorithm>

#include <sys/mman.h>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "cpu/packed.h"

namespace dca::cpu {

namespace {

/// The matrices that products read, each once, stacks of experts one by one.
std::vector<Tensor> matrices(const Weights& weights) {
    std::vector<Tensor> all;
    const auto add = [&](const Tensor& tensor) {
        if (!tensor) return;
        for (int64_t index = 0; index < tensor.depth; ++index) all.push_back(tensor.of_stack(index));
    };
    for (const LayerWeights& layer : weights.layers) {
        for (const Tensor* tensor : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down, &layer.router,
                                     &layer.expert_gate, &layer.expert_up, &layer.expert_down, &layer.shared_gate, &layer.shared_up,
                                     &layer.shared_down}) {
            add(*tensor);
        }
    }
    add(weights.output);
    return all;
}

int64_t row_groups(const Tensor& matrix) { return (matrix.rows + packed_rows - 1) / packed_rows; }

size_t packed_bytes(const Tensor& matrix) { return static_cast<size_t>(row_groups(matrix)) * packed_group_bytes(matrix.type, matrix.cols); }

void pack(const Tensor& matrix, int threads, std::byte* out) {
    const size_t group_bytes = packed_group_bytes(matrix.type, matrix.cols);
    constexpr int64_t grain = 8;  // groups of a task
    parallel_ranges(row_groups(matrix), grain, threads, [&](int64_t begin, int64_t end) {
        for (int64_t group = begin; group < end; ++group) {
            const int64_t first = group * packed_rows;
            const int rows = static_cast<int>(std::min<int64_t>(packed_rows, matrix.rows - first));
            pack_group(matrix.type, matrix.data + first * matrix.row_bytes(), matrix.row_bytes(), rows, matrix.cols, out + group * group_bytes);
        }
    });
}

}  // namespace

PackedWeights::PackedWeights(const BackendSource& source) {
    std::vector<Tensor> all = matrices(source.weights);
    std::erase_if(all, [](const Tensor& matrix) { return packed_bytes(matrix) == 0; });
    size_t bytes = 0;
    uint64_t total = 0;
    for (const Tensor& matrix : all) {
        bytes += packed_bytes(matrix);
        total += static_cast<uint64_t>(matrix.bytes());
    }
    if (bytes == 0) return;
    memory_ = Buffer<std::byte>(bytes);
    // Weights are read from end to end: large pages, where the system gives them, save most of the address lookups.
    static_cast<void>(::madvise(memory_.data(), memory_.bytes(), MADV_HUGEPAGE));

    std::byte* at = memory_.data();
    uint64_t done = 0;
    for (const Tensor& matrix : all) {
        if (!groups_.emplace(matrix.data, at).second) continue;
        pack(matrix, source.threads, at);
        at += packed_bytes(matrix);
        if (matrix.data != source.weights.token_embedding.data) release_pages({matrix.data, static_cast<size_t>(matrix.bytes())});
        done += static_cast<uint64_t>(matrix.bytes());
        if (source.progress != nullptr && source.progress(done, total, source.user) != 0) {
            fail(DCA_ERROR_CANCELLED, "cancelled after ", done, " of ", total, " bytes of weights");
        }
    }
}

}  // namespace dca::cpu
