#include "cuda/step/compact_rows.h"

namespace dca::cuda {
namespace {

constexpr int kThreads = 64;  // small blocks: a thread moves a whole column
constexpr int kAtOnce = 8;    // rows in flight

/// A thread moves 16 bytes of every row, row after row: nothing is overwritten that is still to be read, since a row
/// never moves back.
__global__ void __launch_bounds__(kThreads) compact_kernel(const uint32_t* kept, uint32_t n_rows, RowsInMemory first, RowsInMemory second) {
    const RowsInMemory rows = blockIdx.y == 0 ? first : second;
    const size_t column = (size_t{blockIdx.x} * kThreads + threadIdx.x) * sizeof(uint4);
    if (column >= rows.bytes) return;
    char* memory = static_cast<char*>(rows.memory) + column;
    for (uint32_t row = 0; row < n_rows; row += kAtOnce) {
        uint4 values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (row + i < n_rows) values[i] = *reinterpret_cast<const uint4*>(memory + kept[row + i] * rows.stride);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (row + i < n_rows) *reinterpret_cast<uint4*>(memory + (row + i) * rows.stride) = values[i];
    }
}

}  // namespace

cudaError_t compact_rows(const uint32_t* kept, uint32_t n_rows, const RowsInMemory& first, const RowsInMemory& second,
                         cudaStream_t stream) {
    const size_t bytes = first.bytes > second.bytes ? first.bytes : second.bytes;
    const dim3 grid(static_cast<uint32_t>((bytes / sizeof(uint4) + kThreads - 1) / kThreads), 2);
    compact_kernel<<<grid, kThreads, 0, stream>>>(kept, n_rows, first, second);
    return cudaGetLastError();
}

}  // namespace dca::cuda
