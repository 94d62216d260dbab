// One decoder and one encoder per block format, compiled once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/formats.h"
#include "core/machine/isa.h"

namespace dca {

/// As BlockKernels::encode, where an error at value i counts importance[i].
using WeightedEncoder = void (*)(const float* in, const float* importance, int64_t n_blocks, std::byte* out);

struct BlockKernels {
    void (*decode)(const std::byte* blocks, int64_t n_blocks, float* out);
    /// Every value is finite and within the format's range. Null where a format is only read.
    void (*encode)(const float* in, int64_t n_blocks, std::byte* out);
    /// Index of the first value that is NaN or larger than max_abs in magnitude; n if there is none.
    int64_t (*first_beyond)(const float* in, int64_t n, float max_abs);
    WeightedEncoder encode_weighted = nullptr;  // null where weights change nothing
};

/// The kernels compiled for `isa`, which this machine has. All give the same bits; only speed differs.
BlockKernels block_kernels(BlockType type, Isa isa) noexcept;

/// Those of chosen_isa(), with its error.
BlockKernels block_kernels(BlockType type);

// One a translation unit.
BlockKernels block_kernels_generic(BlockType type) noexcept;
#if defined(__x86_64__)
BlockKernels block_kernels_avx2(BlockType type) noexcept;
BlockKernels block_kernels_avx512(BlockType type) noexcept;
#endif

}  // namespace dca
