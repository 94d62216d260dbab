// One token's matrix products: kernels that read every weight once, at the speed of memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/hparams.h"
#include "cuda/device/launch.h"
#include "cuda/weights/own_experts.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

enum class VectorType : int32_t { F32, F16, BF16 };

/// Where the keys and values of a token go: straight into a layer's cache, the keys rotated at P_k.
struct KvTarget {
    void* keys = nullptr;  // (pages, n_kv_heads, kPageTokens, head_dim) of `type`; null: no cache
    void* values = nullptr;
    VectorType type;  // F16 or BF16
    uint32_t head_dim, rotary_dim;
    uint32_t q_rows, kv_rows;  // the matrix is q over k over v
    uint32_t chunk_size;       // s
    const float2* cos_sin;     // (positions, rotary_dim / 2)
    const uint32_t* index;     // device memory: the token's in its sequence
    const uint32_t* place;     // device memory: page * kPageTokens + offset in the page
};

struct MatvecArgs {
    Matrix w;
    const void* x;  // (w.cols)
    VectorType x_type;
    const float* norm;  // (w.cols): x is RMS normed with this weight first; null: as it is
    float epsilon;
    const float* bias;  // (w.rows), null: none
    void* y;            // (w.rows), (w.rows / 2) if gated
    VectorType y_type;
    bool add;    // y += W x; y_type is F32
    bool gated;  // rows r and r + w.rows / 2 are a gate and its up: y = act(gate) · up
    Activation activation;
    KvTarget kv;          // if its keys are set: y gets q only
    uint32_t rows_apart;  // of the two rows a warp takes together: 1; w.rows / 2 if gated; with kv, of RoPE's pairs
};

/// Launches on `stream`, returns without waiting and allocates nothing.
/// cudaErrorInvalidValue: matvec_takes() is false.
cudaError_t matvec(const Card& card, const MatvecArgs& args, cudaStream_t stream);

/// The matrices of some experts, each times a vector.
struct ExpertMatvecArgs {
    MatvecArgs first;         // w is the matrix of the first own expert, as is bias, x and y the first choice's; neither add nor kv
    uint32_t bias_apart;      // values between the biases of two experts
    const uint32_t* experts;  // (n_chosen) in device memory: whose matrix each choice takes
    OwnExperts own;           // the y of others stays as it is
    uint32_t n_chosen;
    uint32_t x_apart, y_apart;  // elements between the vectors of two choices (0: they share one) and between their results
};
/// As matvec(), once for each choice.
cudaError_t matvec_experts(const Card& card, const ExpertMatvecArgs& args, cudaStream_t stream);

/// Whether a product of this shape fits the card: the vector and a ring of weights fit in shared
/// memory. Columns are a multiple of 8, of 32 where quantised.
bool matvec_takes(const Card& card, const Matrix& w);

}  // namespace dca::cuda
