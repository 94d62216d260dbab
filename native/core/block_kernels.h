// One decoder and one encoder per block format, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/block_formats.h"

namespace dca {

struct BlockKernels {
    void (*decode)(const std::byte* blocks, int64_t n_blocks, float* out);
    /// Every value is finite and within the format's range.
    void (*encode)(const float* in, int64_t n_blocks, std::byte* out);
};

BlockKernels block_kernels_generic(BlockType type) noexcept;

}  // namespace dca
