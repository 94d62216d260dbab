// Who holds what in a product of few rows (small_batch.cuh): the indices of its tiles, of its copies to shared memory and of
// the operands of mma.m16n8k16; host and device, so that a test on the CPU can follow every weight.
//
// A block of threads computes tiles of 256 weight rows with all rows of x, in steps along the columns. A step takes 128 bytes
// of each row's low plane: 256 columns in four-bit planes, 128 in eight, 64 in 16-bit floats. Each warp has its own rows.
//
// mma sums over its 16 columns in any order, as long as both operands agree. So lane (g, t) = (lane / 4, lane % 4) takes the
// 32 bytes number t of rows g and g + 8: whole units of 32 weights, whose scale it then needs alone, and of x's row g the
// columns of those same units. What the instruction calls columns 2t, 2t + 1, 2t + 8, 2t + 9 are four neighbours among them.
//
//        a row's 128 bytes of a step     | t = 0       | t = 1       | t = 2       | t = 3       |
//        chunks of 16 bytes              | q=0  | q=1  | q=0  | q=1  | ...
//        eights of columns, 2 kEights    | i = 0 ...   | i = 0 ...   |
#pragma once

#include <cstdint>

#include "core/positions/host_device.h"
#include "cuda/weights/planes.h"

namespace dca::cuda::few {

constexpr uint32_t kTileRows = 256;   // of weights, of a block
constexpr uint32_t kStepBytes = 128;  // of a row's low plane

/// Weights in 16-bit floats.
struct Dense {
    static constexpr bool kQuantised = false;
    static constexpr uint32_t kLowBits = 16, kHighBytes = 0, kScaleBytes = 0;
};

/// Weights in the planes P.
template <class P>
struct Quantised {
    using Planes = P;
    static constexpr bool kQuantised = true;
    static constexpr uint32_t kLowBits = P::kLowBits;
    static constexpr uint32_t kHighBytes = P::kHighWords * 4, kScaleBytes = P::kScaleHalves * 2;  // of a unit
};

/// A step along the columns of weights in F, Dense or Quantised.
template <class F>
struct Step {
    static constexpr uint32_t kCols = kStepBytes * 8 / F::kLowBits;
    static constexpr uint32_t kUnits = F::kQuantised ? kCols / kUnit : 0;  // of a row
    static constexpr uint32_t kLaneUnits = kUnits / 4;
    static constexpr uint32_t kEights = 128 / F::kLowBits / 8;  // in a chunk of 16 bytes
    static constexpr uint32_t kXChunks = kCols / 8;             // 16-byte chunks of a row of x

    // A warp's part of a stage: low plane, high plane, scales of its rows.
    static constexpr uint32_t kHighRow = kUnits * F::kHighBytes, kScaleRow = kUnits * F::kScaleBytes;
    static constexpr uint32_t kRowBytes = kStepBytes + kHighRow + kScaleRow;
    static constexpr uint32_t kWeightBytes = kTileRows * kRowBytes;  // of all warps
    static constexpr uint32_t stage_bytes(uint32_t x_rows) { return kWeightBytes + x_rows * kCols * 2; }
};

/// Where chunk q of lane `lane` of rows 8 eight + g lies in a warp's low plane, in units of 16 bytes. Free of bank conflicts for
/// eight lanes that copy a row (q and lane % 4 vary) and for eight neighbours that read the same q.
constexpr DCA_HOST_DEVICE uint32_t low_slot(uint32_t eight, uint32_t q, uint32_t lane) { return (eight * 2 + q) * 32 + (lane ^ q << 2); }

/// Where eight c (0 ... kXChunks - 1) of row n of x lies in its stage, in units of 16 bytes: free of bank conflicts for eight
/// lanes that copy neighbouring c, and for eight lanes that read the same i of c = t kXChunks / 4 + i in two rows.
template <uint32_t kXChunks>
constexpr DCA_HOST_DEVICE uint32_t x_slot(uint32_t n, uint32_t c) {
    return n * kXChunks + (c ^ (c / 8 | (n & 1) * (kXChunks / 8)));
}

// On Hopper (sm90.cuh) w is wgmma's left operand, in registers: a warp's rows and columns as above. x, its right
// one, is read by the instruction itself, 16 columns after 16 of what a row has in shared memory, so there they lie in its order:
// the four eights i of t = 0 ... 3 become 64 bytes, of which 16-byte piece j has pair j of each.

/// Where that piece of row n of x lies in its stage, in bytes: panels of 64 columns for all n_rows rows, in each row
/// the pieces exchanged as the hardware's 128-byte swizzle has it.
constexpr DCA_HOST_DEVICE uint32_t wgmma_x_offset(uint32_t n_rows, uint32_t n, uint32_t i, uint32_t j) {
    return (i / 2 * n_rows + n) * 128 + ((i % 2 * 4 + j) ^ n % 8) * 16;
}

/// Where chunk c (0 ... 7) of a row's 128 bytes of low plane lies in its stage, in bytes: likewise swizzled.
constexpr DCA_HOST_DEVICE uint32_t wgmma_low_offset(uint32_t row, uint32_t c) { return row * kStepBytes + (c ^ row % 8) * 16; }

/// With 32 rows of x at most and four-bit planes it is mma again (sm90_mma.cuh): x lies as the copy engine
/// brings it, in a box of all rows for the columns of each t. Boxes are 256 bytes more apart than they are long, so that
/// the four t that read the same eight of two neighbouring rows meet no bank twice.
constexpr uint32_t kXBoxColumns = 64;
constexpr DCA_HOST_DEVICE uint32_t x_box_bytes(uint32_t n_rows) { return n_rows * kXBoxColumns * 2; }
constexpr DCA_HOST_DEVICE uint32_t x_boxes_apart(uint32_t n_rows) { return x_box_bytes(n_rows) + 256; }

/// Where eight i (0 ... 7) of a box's row n lies in the stage of x, in bytes: swizzled by its address, as the hardware does.
constexpr DCA_HOST_DEVICE uint32_t mma_x_offset(uint32_t n_rows, uint32_t t, uint32_t n, uint32_t i) {
    return t * x_boxes_apart(n_rows) + n * 128 + (i ^ (2 * t + n) % 8) * 16;
}

/// All steps of all tiles, one after another, cut into equal runs for the blocks: every block reads about as many weights as
/// every other. A tile that is cut is summed by add_parts_kernel.
struct Split {
    uint32_t steps;   // of a tile
    uint32_t total;   // of all tiles
    uint32_t blocks;  // at most `total`

    constexpr DCA_HOST_DEVICE uint32_t begin(uint32_t block) const { return static_cast<uint32_t>(uint64_t{block} * total / blocks); }
    constexpr DCA_HOST_DEVICE uint32_t block_of(uint32_t step) const {
        return static_cast<uint32_t>(((uint64_t{step} + 1) * blocks - 1) / total);
    }
    /// Where a block keeps its sums of a tile that others share: only its first and its last tile can be such.
    constexpr DCA_HOST_DEVICE uint32_t slot(uint32_t block, uint32_t tile) const {
        return 2 * block + (begin(block) / steps == tile ? 0 : 1);
    }
};

}  // namespace dca::cuda::few
