// Weights on their way: from a file's blocks to device planes, from planes to 16-bit matrices for
// cuBLASLt, from the embedding matrix to the residual stream.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/blocks/formats.h"
#include "cuda/device/dtype.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

/// The format that a tensor of this type has on the device, where the activations are `dtype`.
WeightFormat device_format(BlockType type, Dtype dtype);

/// n_blocks blocks of `type`, as in the file, to values [first_value, ...) of `to`, counted row after row.
cudaError_t repack(BlockType type, const void* blocks, uint64_t n_blocks, const Matrix& to, uint64_t first_value, cudaStream_t stream);

/// Rows [first_row, first_row + rows) of a quantised matrix as dtype, row-major.
cudaError_t dequantize(const Matrix& from, uint32_t first_row, uint32_t rows, Dtype dtype, void* to, cudaStream_t stream);

struct EmbedArgs {
    Matrix table;           // (n_vocab, n_embd)
    const int32_t* tokens;  // n_tokens of them; may be host memory that the device can read
    uint32_t n_tokens;
    float scale;  // of the values
    float* x;     // (n_tokens, n_embd)
    // Words that are copied beside: where a step is described in host memory, this is a copy and a launch less.
    const uint32_t* words_from;  // host memory that the device can read
    uint32_t* words_to;
    uint32_t n_words;  // at most 256; 0: none
};
cudaError_t embed(const EmbedArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
