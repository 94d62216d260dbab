#include "cpu/packed_weights.h"

#include <algorithm>
#include <cstring>

#include <sys/mman.h>

#include "core/machine/available_memory.h"
#include "core/error.h"
#include "core/gguf/mapped_file.h"
#include "core/machine/parallel.h"
#include "cpu/packed.h"

namespace dca::cpu {

namespace {

/// The matrices that products read, each once, experts one by one.
std::vector<Tensor> matrices(const Weights& weights) {
    std::vector<Tensor> all;
    const auto add = [&](const Tensor& tensor) {
        if (!tensor) return;
        for (int64_t index = 0; index < tensor.depth; ++index) all.push_back(tensor.expert(index));
    };
    for (const LayerWeights& layer : weights.layers) {
        for (const Tensor* tensor :
             {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down, &layer.router, &layer.expert_gate,
              &layer.expert_up, &layer.expert_down, &layer.shared_gate, &layer.shared_up, &layer.shared_down}) {
            add(*tensor);
        }
    }
    add(weights.output);
    return all;
}

constexpr size_t kCacheLine = 64;

int64_t row_groups(const Tensor& matrix) { return (matrix.rows + kPackedRows - 1) / kPackedRows; }

bool is_float(const Tensor& matrix) {
    return matrix.type == BlockType::F16 || matrix.type == BlockType::BF16 || matrix.type == BlockType::F32;
}

/// Bytes of the copy; 0 for a format that has none.
size_t copied_bytes(const Tensor& matrix) {
    if (is_float(matrix)) return (static_cast<size_t>(matrix.bytes()) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return static_cast<size_t>(row_groups(matrix)) * packed_group_bytes(matrix.type, matrix.cols);
}

void copy_rows(const Tensor& matrix, int threads, std::byte* out) {
    constexpr int64_t grain = 64;  // rows of a task
    parallel_ranges(matrix.rows, grain, threads, [&](int64_t begin, int64_t end) {
        std::memcpy(out + begin * matrix.row_bytes(), matrix.data + begin * matrix.row_bytes(),
                    static_cast<size_t>((end - begin) * matrix.row_bytes()));
    });
}

void pack(const Tensor& matrix, int threads, std::byte* out) {
    const size_t group_bytes = packed_group_bytes(matrix.type, matrix.cols);
    constexpr int64_t grain = 8;  // groups of a task
    parallel_ranges(row_groups(matrix), grain, threads, [&](int64_t begin, int64_t end) {
        for (int64_t group = begin; group < end; ++group) {
            const int64_t first = group * kPackedRows;
            const int rows = static_cast<int>(std::min<int64_t>(kPackedRows, matrix.rows - first));
            pack_group(matrix.type, matrix.data + first * matrix.row_bytes(), matrix.row_bytes(), rows, matrix.cols,
                       out + group * group_bytes);
        }
    });
}

}  // namespace

PackedWeights::PackedWeights(const BackendSource& source, bool quantised) {
    std::vector<Tensor> all = matrices(source.weights);
    std::erase_if(all, [=](const Tensor& matrix) { return copied_bytes(matrix) == 0 || (!quantised && !is_float(matrix)); });
    size_t bytes = 0;
    uint64_t total = 0;
    for (const Tensor& matrix : all) {
        bytes += copied_bytes(matrix);
        total += static_cast<uint64_t>(matrix.bytes());
    }
    if (bytes == 0 || bytes > available_memory() / 4 * 3) return;
    memory_ = Buffer<std::byte>(bytes);
#if defined(MADV_HUGEPAGE)
    // Weights are read from end to end: large pages, where the system gives them, save most of the address lookups.
    static_cast<void>(::madvise(memory_.data(), memory_.bytes(), MADV_HUGEPAGE));
#endif

    std::byte* at = memory_.data();
    uint64_t done = 0;
    for (const Tensor& matrix : all) {
        if (!(is_float(matrix) ? rows_ : groups_).emplace(matrix.data, at).second) continue;
        if (is_float(matrix))
            copy_rows(matrix, source.threads, at);
        else
            pack(matrix, source.threads, at);
        at += copied_bytes(matrix);
        if (matrix.data != source.weights.token_embedding.data) release_pages({matrix.data, static_cast<size_t>(matrix.bytes())});
        done += static_cast<uint64_t>(matrix.bytes());
        if (source.progress != nullptr && source.progress(done, total, source.user) != 0) {
            fail(DCA_ERROR_CANCELLED, "cancelled after ", done, " of ", total, " bytes of weights");
        }
    }
}

}  // namespace dca::cpu
