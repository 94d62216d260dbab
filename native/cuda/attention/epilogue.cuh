// The way of a prefill kernel's output from tensor core accumulators to memory, through a tile in shared
// memory so that threads write 16 bytes each.
#pragma once

#include "cuda/device/halves.cuh"
#include "cuda/device/panels.cuh"

namespace dca::cuda {

/// Puts this thread's rows `row` and row + 8 into a shared tile of kTileRows rows, each divided by its sum.
template <int kHeadDim, int kTileRows>
__device__ __forceinline__ void stage_output(uint8_t* tile, int lane, int row, const float (&o)[kHeadDim / 2],
                                             const float (&inverse_sums)[2], Dtype dtype) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 2; n += 2) {
        const int half = n / 2 % 2, column = n / 4 * 8 + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(tile + Panels<kHeadDim>::offset(kTileRows, row + 8 * half, column)) =
            pack(o[n] * inverse_sums[half], o[n + 1] * inverse_sums[half], dtype);
    }
}

/// Where a block's rows of one head go.
struct OutputRows {
    void* out;       // (n_queries, n_heads, head_dim) of 16-bit values
    int64_t stride;  // elements between tokens
    uint32_t first;  // row of `out` of the tile's first one
    uint32_t end;    // the block's rows of the tile are those before
    uint32_t head;
    uint32_t begin = 0;  // and from here on; `first` is of the tile's row 0 all the same
};

/// One warp writes rows [first_row, first_row + kWarpRows) of a shared tile of kTileRows rows, those that exist.
template <int kHeadDim, int kTileRows, int kWarpRows>
__device__ __forceinline__ void write_output(const uint8_t* tile, int lane, uint32_t first_row, const OutputRows& rows) {
    constexpr int kVectors = kHeadDim / 8;
#pragma unroll
    for (int n = lane; n < kWarpRows * kVectors; n += 32) {
        const uint32_t row = first_row + n / kVectors;
        if (row >= rows.end) break;
        if (row < rows.begin) continue;
        uint8_t* to = static_cast<uint8_t*>(rows.out) + 2 * ((rows.first + row) * rows.stride + rows.head * kHeadDim + n % kVectors * 8);
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(tile + Panels<kHeadDim>::offset(kTileRows, row, n % kVectors * 8));
    }
}

}  // namespace dca::cuda
