#include "cuda/weights/uploader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/blocks/half.h"
#include "core/blocks/layouts.h"
#include "core/machine/parallel.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

namespace {

constexpr uint64_t kSlotBytes = uint64_t{32} << 20;
static_assert(Uploader::kDeviceBytes == 3 * kSlotBytes);
constexpr int64_t kCopyGrain = int64_t{1} << 20;
constexpr int kMostCopyThreads = 8;  // enough to outrun the bus
constexpr int64_t kDecodeGrain = int64_t{1} << 18;
static_assert(kDecodeGrain % kSuperBlock == 0);

/// Whether the file's bytes are the device's bytes.
bool same_bytes(BlockType type, WeightFormat format) {
    return (type == BlockType::F16 && format == WeightFormat::F16) || (type == BlockType::BF16 && format == WeightFormat::BF16);
}

/// Blocks [first, first + count) of a tensor, counted along its rows, to `out`.
void copy_blocks(const Tensor& tensor, uint64_t first, uint64_t count, std::byte* out) {
    const int threads = std::min(kMostCopyThreads, usable_cores());
    const auto block_bytes = int64_t{block_info(tensor.type).block_bytes};
    if (tensor.contiguous()) {
        const std::byte* from = tensor.data + static_cast<int64_t>(first) * block_bytes;
        parallel_ranges(static_cast<int64_t>(count) * block_bytes, kCopyGrain, threads,
                        [&](int64_t begin, int64_t end) { std::memcpy(out + begin, from + begin, static_cast<size_t>(end - begin)); });
        return;
    }
    const int64_t of_row = tensor.row_bytes() / block_bytes;
    parallel_ranges(static_cast<int64_t>(count), std::max<int64_t>(kCopyGrain / block_bytes, 1), threads, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end;) {
            const int64_t block = static_cast<int64_t>(first) + at, row = block / of_row, column = block % of_row;
            const int64_t run = std::min(of_row - column, end - at);
            const std::byte* from = tensor.data + row / tensor.rows * tensor.matrix_step() + row % tensor.rows * tensor.row_step();
            std::memcpy(out + at * block_bytes, from + column * block_bytes, static_cast<size_t>(run * block_bytes));
            at += run;
        }
    });
}

/// Formats whose values are points of grids, which the card does not have: they go over as 16-bit floats.
bool decoded_on_host(BlockType type) {
    switch (type) {
        case BlockType::IQ3_S:
        case BlockType::IQ3_XXS:
        case BlockType::IQ2_S:
        case BlockType::IQ2_XS:
        case BlockType::IQ2_XXS: return true;
        default: return false;
    }
}

/// Values of blocks as f16 or bf16.
void decode_to_16_bits(const Tensor& tensor, const std::byte* blocks, int64_t n_values, WeightFormat format, uint16_t* out) {
    const BlockInfo& info = block_info(tensor.type);
    parallel_ranges(n_values, kDecodeGrain, std::min(kMostCopyThreads, usable_cores()), [&](int64_t begin, int64_t end) {
        float values[kSuperBlock];
        for (int64_t at = begin; at < end; at += kSuperBlock) {
            decode_blocks(tensor.type, blocks + at / info.block_size * info.block_bytes, kSuperBlock, values);
            for (int i = 0; i < kSuperBlock; ++i)
                out[at + i] = format == WeightFormat::F16 ? float_to_half(values[i]) : float_to_bf16(values[i]);
        }
    });
}

}  // namespace

Uploader::Uploader(const BackendSource& source, uint64_t total) : source_(source), total_(total), stream_(make_stream()) {
    for (Slot& slot : slots_) {
        slot.host = allocate_pinned(kSlotBytes, "allocating staging memory");
        slot.device = allocate_device(kSlotBytes, "allocating staging memory");
        slot.free = make_event();
    }
}

// The card may still be reading the buffers.
Uploader::~Uploader() { static_cast<void>(cudaStreamSynchronize(stream_.get())); }

void Uploader::matrix(const Tensor& tensor, const Matrix& to, uint64_t first_row) {
    const BlockInfo& info = block_info(tensor.type);
    const uint64_t n_blocks = static_cast<uint64_t>(tensor.bytes()) / info.block_bytes;
    const bool decoded = decoded_on_host(tensor.type);
    const uint64_t blocks_a_piece = kSlotBytes / (decoded ? 2 * info.block_size : info.block_bytes);
    for (uint64_t first = 0; first < n_blocks; first += blocks_a_piece) {
        const uint64_t count = std::min(blocks_a_piece, n_blocks - first);
        const uint64_t bytes = count * info.block_bytes;
        const uint64_t first_value = first_row * to.cols + first * info.block_size;

        Slot& slot = slots_[next_++ % slots_.size()];
        check(cudaEventSynchronize(slot.free.get()), "loading weights");
        const uint64_t values = count * info.block_size;
        if (decoded) {
            const std::byte* from = tensor.data + first * info.block_bytes;
            std::vector<std::byte> gathered;
            if (!tensor.contiguous()) {
                gathered.resize(bytes);
                copy_blocks(tensor, first, count, gathered.data());
                from = gathered.data();
            }
            decode_to_16_bits(tensor, from, static_cast<int64_t>(values), to.format, reinterpret_cast<uint16_t*>(slot.host.get()));
        } else {
            copy_blocks(tensor, first, count, slot.host.get());
        }
        if (decoded || same_bytes(tensor.type, to.format)) {
            std::byte* target = static_cast<std::byte*>(to.low) + 2 * first_value;
            check(cudaMemcpyAsync(target, slot.host.get(), 2 * values, cudaMemcpyHostToDevice, stream_.get()), "loading weights");
        } else {
            check(cudaMemcpyAsync(slot.device.get(), slot.host.get(), bytes, cudaMemcpyHostToDevice, stream_.get()), "loading weights");
            check(repack(tensor.type, slot.device.get(), count, to, first_value, stream_.get()), "loading weights");
        }
        check(cudaEventRecord(slot.free.get(), stream_.get()), "loading weights");

        done_ += bytes;
        if (source_.progress != nullptr && source_.progress(done_, total_, source_.user) != 0) {
            fail(DCA_ERROR_CANCELLED, "cancelled after ", done_, " of ", total_, " bytes of weights");
        }
    }
}

void Uploader::finish() { check(cudaStreamSynchronize(stream_.get()), "loading weights"); }

}  // namespace dca::cuda
