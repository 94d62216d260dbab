// The block formats this library knows: their facts, and conversion from and to f32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/half.h"

namespace dca {

/// Numbers are GGUF's ggml_type.
enum class BlockType : uint32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    BF16 = 30,
    MXFP4 = 39,
};

struct BlockInfo {
    BlockType type;
    const char* name;      // as GGUF tools print it: "Q4_K"
    uint32_t block_size;   // values in a block
    uint32_t block_bytes;  // bytes of a block
    bool can_encode;
};

/// The facts of a ggml_type number; nullptr where this library does not know the format.
const BlockInfo* block_info(uint32_t ggml_type) noexcept;

inline const BlockInfo& block_info(BlockType type) noexcept { return *block_info(static_cast<uint32_t>(type)); }

/// Decodes n_values (a multiple of the block size) to f32, equal to the bit to the arithmetic
/// written in layouts.h. `blocks` is aligned to 2 bytes (F32: 4). One thread.
void decode_blocks(BlockType type, const std::byte* blocks, int64_t n_values, float* out);

/// Encodes n_values (a multiple of the block size). One thread.
/// Throws Error(DCA_ERROR_ARGUMENT) on a value that is not finite or beyond the format's range. The format can encode.
void encode_blocks(BlockType type, const float* in, int64_t n_values, std::byte* out);

/// As decode_blocks, spread over `threads` threads (0: all the cores this process may use).
void decode_rows(BlockType type, const std::byte* blocks, int64_t n_values, int threads, float* out);

/// As encode_blocks for rows of row_length values (a multiple of the block size), spread over
/// `threads` threads (0: all the cores this process may use). The error names row and column. `weights`: what a squared
/// error in each column counts (row_length of them), null: they count alike.
void encode_rows(BlockType type, const float* in, int64_t n_values, int64_t row_length, int threads, std::byte* out,
                 const float* weights = nullptr);

}  // namespace dca
