#include "cuda/ranks/table.h"

namespace dca::cuda {

namespace {

size_t pushed_bytes(const RankSizes& sizes) { return size_t{2} * sizes.ranks * (kPushedValues / 2) * sizeof(uint4); }
size_t pushed_row_bytes(const RankSizes& sizes) { return size_t{2} * sizes.ranks * kPushedRows * (sizes.width / 4) * sizeof(uint2); }
size_t arrived_bytes(const RankSizes& sizes) { return size_t{sizes.ranks} * kSumBlocks * sizeof(uint32_t); }
size_t reached_bytes(const RankSizes& sizes) { return (size_t{sizes.ranks} + 1) / 2 * 2 * sizeof(uint32_t); }  // whole words of 8 bytes
size_t letter_bytes(const RankSizes& sizes) { return size_t{2} * sizes.block * sizes.width; }

}  // namespace

size_t RankMemory::inbox_bytes_of(const RankSizes& sizes) { return kPartials * (sizes.ranks - 1) * letter_bytes(sizes); }

size_t RankMemory::signal_bytes(const RankSizes& sizes) {
    return pushed_bytes(sizes) + pushed_row_bytes(sizes) + arrived_bytes(sizes) + reached_bytes(sizes) + 2 * sizeof(uint64_t);
}

void RankMemory::place(std::byte* inboxes, std::byte* signals, const RankSizes& sizes) {
    inbox_bytes = letter_bytes(sizes);
    for (std::byte*& box : inbox) {
        box = inboxes;
        inboxes += (sizes.ranks - 1) * inbox_bytes;
    }
    const auto take = [&]<class T>(T*& part, size_t bytes) {
        part = reinterpret_cast<T*>(signals);
        signals += bytes;
    };
    take(pushed, pushed_bytes(sizes));
    take(pushed_rows, pushed_row_bytes(sizes));
    take(arrived, arrived_bytes(sizes));
    take(reached, reached_bytes(sizes));
    take(tickets, sizeof(uint64_t));
    take(row_tickets, sizeof(uint64_t));
}

cudaError_t RankMemory::clear(const RankSizes& sizes, cudaStream_t stream) const {
    const cudaError_t status = cudaMemsetAsync(pushed, 0, signal_bytes(sizes), stream);
    static_assert(kNothing == 0xffffffffu);
    return status != cudaSuccess ? status : cudaMemsetAsync(pushed_rows, 0xff, pushed_row_bytes(sizes), stream);
}

}  // namespace dca::cuda
