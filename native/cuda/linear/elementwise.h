// The small kernels between the matrix products.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/hparams.h"
#include "cuda/device/dtype.h"
#include "cuda/device/launch.h"

namespace dca::cuda {

struct NormArgs {
    const float* x;       // (rows, width)
    const float* weight;  // (width); null: x is rounded as it is
    const float* bias;    // (width), null: none; with NormKind::Layer
    NormKind kind;
    float epsilon;
    uint32_t rows, width;  // width is a multiple of 8
    Dtype dtype;
    void* to;        // (rows, width) of dtype
    float* factors;  // (rows), becomes 1 / rms(x); null: not wanted; with NormKind::Rms
};
/// to = norm(x) · weight + bias, row by row.
cudaError_t norm(const Card& card, const NormArgs& args, cudaStream_t stream);

struct HeadNormArgs {
    void* heads;  // n_rows rows of n_q_heads + n_k_heads heads, dtype, normed in place
    Dtype dtype;
    uint32_t n_rows, row_stride;              // elements between rows
    uint32_t n_q_heads, n_k_heads, head_dim;  // head_dim at most 256
    const float* q_weight;                    // (head_dim), or as many for every head
    const float* k_weight;
    uint32_t weight_step;  // from a head's weights to the next one's: 0 or head_dim
    NormKind kind;
    float epsilon;
};
/// Norm of every query and key head.
cudaError_t head_norm(const Card& card, const HeadNormArgs& args, cudaStream_t stream);

/// RMS norm of all query heads together, and of all key heads; weights are a head's behind another's.
cudaError_t whole_head_norm(const Card& card, const HeadNormArgs& args, cudaStream_t stream);

/// to = act(gate) · up, where row r of `gate_up` (rows, 2 width) is gate and then up; width is a multiple of 8.
cudaError_t gate_multiply(const Card& card, Activation activation, const void* gate_up, uint32_t rows, uint32_t width, Dtype dtype,
                          void* to, cudaStream_t stream);

/// The same in f32, for the few rows of a decode step.
cudaError_t gate_multiply_f32(const Card& card, Activation activation, const float* gate_up, uint32_t rows, uint32_t width, float* to,
                              cudaStream_t stream);

struct AddBranchArgs {
    const float* branch;  // (rows, width)
    const float* weight;  // (width) of an RMS norm that comes first; null: none
    float epsilon, scale;
    uint32_t rows, width;  // width is a multiple of 4
    float* x;              // (rows, width)
};
/// x += scale · norm(branch), row by row.
cudaError_t add_branch(const Card& card, const AddBranchArgs& args, cudaStream_t stream);

/// logits become scale · logits, then cap · tanh(logits / cap) unless cap is 0.
cudaError_t scale_and_cap(const Card& card, float* logits, uint64_t n, float scale, float cap, cudaStream_t stream);

/// scores[r] = the logarithm of the sum of row r's exponentials, and the logit of targets[r], minus infinity where that is
/// negative; logits (rows, n_vocab) f32. targets and scores may be host memory that the device can reach.
cudaError_t score_tokens(const float* logits, uint32_t rows, uint32_t n_vocab, const int32_t* targets, float2* scores, cudaStream_t stream);

}  // namespace dca::cuda
