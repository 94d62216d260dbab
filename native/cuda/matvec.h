// One token's matrix products: kernels that read every weight once, at the speed of memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/planes.h"

namespace dca::cuda {

enum class VectorType : int32_t { F32, F16, BF16 };

struct MatvecArgs {
    Matrix w;
    const void* x;               // (w.cols)
    VectorType x_type;
    const float* norm;           // (w.cols): x, f32, is RMS normed with this weight first; null: as it is
    float epsilon;
    const float* bias;           // (w.rows), null: none
    void* y;                     // (w.rows), or half of it if gated
    VectorType y_type;
    bool add;                    // y += W x; y_type is F32
    bool gated;                  // rows r and r + w.rows / 2 are a gate and its up: y = silu(gate) · up, no bias
};

/// Launches on `stream`, returns without waiting and allocates nothing.
/// cudaErrorInvalidValue: matvec_takes() is false.
cudaError_t matvec(const Card& card, const MatvecArgs& args, cudaStream_t stream);

/// Whether a product of this shape fits the card: with norm at most 16,384 columns, and the vector
/// fits in shared memory. Columns are a multiple of 8, of 32 where quantised.
bool matvec_takes(const Card& card, const Matrix& w, bool normed);

}  // namespace dca::cuda
