// The small kernels between the matrix products.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/dtype.h"
#include "cuda/device/launch.h"

namespace dca::cuda {

struct RmsNormArgs {
    const float* x;       // (rows, width)
    const float* weight;  // (width)
    float epsilon;
    uint32_t rows, width;  // width is a multiple of 8
    Dtype dtype;
    void* to;        // (rows, width) of dtype
    float* factors;  // (rows), becomes 1 / rms(x); null: not wanted
};
/// to = x / rms(x) · weight, row by row.
cudaError_t rms_norm(const Card& card, const RmsNormArgs& args, cudaStream_t stream);

struct HeadNormArgs {
    void* heads;  // n_rows rows of n_q_heads + n_k_heads heads, dtype, normed in place
    Dtype dtype;
    uint32_t n_rows, row_stride;              // elements between rows
    uint32_t n_q_heads, n_k_heads, head_dim;  // head_dim at most 256
    const float* q_weight;                    // (head_dim)
    const float* k_weight;
    float epsilon;
};
/// RMS norm of every query and key head.
cudaError_t head_norm(const Card& card, const HeadNormArgs& args, cudaStream_t stream);

/// to = silu(gate) · up, where row r of `gate_up` (rows, 2 width) is gate and then up; width is a multiple of 8.
cudaError_t silu_multiply(const Card& card, const void* gate_up, uint32_t rows, uint32_t width, Dtype dtype, void* to, cudaStream_t stream);

/// The same in f32, for the few rows of a decode step.
cudaError_t silu_multiply_f32(const Card& card, const float* gate_up, uint32_t rows, uint32_t width, float* to, cudaStream_t stream);

/// scores[r] = the logarithm of the sum of row r's exponentials, and the logit of targets[r], minus infinity where that is
/// negative; logits (rows, n_vocab) f32. targets and scores may be host memory that the device can reach.
cudaError_t score_tokens(const float* logits, uint32_t rows, uint32_t n_vocab, const int32_t* targets, float2* scores, cudaStream_t stream);

}  // namespace dca::cuda
