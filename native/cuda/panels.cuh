// The layout of tiles in shared memory: what the copy engine writes, wgmma reads, and ldmatrix
// reads without bank conflicts.
#pragma once

#include <cstdint>

namespace dca::cuda {

/// How a tile of 16-bit values lies in shared memory: panels of kWidth columns, each row of a
/// panel 2 kWidth bytes, 16-byte pieces exchanged by the hardware's swizzle of that row size.
/// Panels follow one another, `rows` rows each. Tiles start at multiples of 1024 bytes.
template <int kHeadDim>
struct Panels {
    static constexpr int kWidth = kHeadDim % 64 == 0 ? 64 : kHeadDim % 32 == 0 ? 32 : 16;
    static constexpr int kCount = kHeadDim / kWidth;
    static constexpr int kRowBytes = 2 * kWidth;
    static constexpr int kSwizzle = kWidth / 8 - 1;  // of the address bits above 16 bytes

    /// Byte offset of element (row, column) in a tile of `rows` rows.
    static __device__ __forceinline__ uint32_t offset(int rows, int row, int column) {
        const uint32_t within = row * kRowBytes + column % kWidth * 2;
        return column / kWidth * rows * kRowBytes + (within ^ ((within >> 7 & kSwizzle) << 4));
    }
};

}  // namespace dca::cuda
