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

    /// Byte offset of element (row, column) in a tile of `rows` rows. Piece `column / 8` of a panel's row
    /// trades places by the address bits above 128 bytes, as many as the pieces have.
    static __device__ __forceinline__ uint32_t offset(uint32_t rows, uint32_t row, uint32_t column) {
        constexpr uint32_t kPieces = kWidth / 8;
        const uint32_t trade = row / (128 / kRowBytes) % kPieces;
        return column / kWidth * rows * kRowBytes + row * kRowBytes + ((column % kWidth / 8) ^ trade) * 16 + column % 8 * 2;
    }
};

}  // namespace dca::cuda
