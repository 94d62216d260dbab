// Matrix products of 2 ... 128 rows of activations, every weight read once and multiplied as it lies in its planes.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "core/hparams.h"
#include "cuda/device/card.h"
#include "cuda/device/dtype.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

/// y (rows, w.rows) = x (rows, w.cols) · wᵀ, everything row-major; f32 accumulation. Quantised weights are rounded to f16 and,
/// where that is another type, to dtype.
struct SmallBatchArgs {
    Matrix w;
    const void* x;  // dtype, rows back to back, 16-byte aligned
    void* y;
    uint32_t rows;          // of x and y
    uint32_t y_stride;      // elements between y's rows
    Dtype dtype;            // of x; where w is not quantised, also of w
    bool y_f32;             // else dtype
    bool add;               // y += ...
    const void* bias;       // (w.rows) of y's type, added to every row; null: none
    void* workspace;        // small_batch_workspace_bytes(); used by one stream at a time; need not be cleared
    bool gated;             // rows r and r + w.rows / 2 of w are a gate and its up: y (rows, w.rows / 2) = act(gate) · up, not added to
    Activation activation;  // act; where small_batch_gates()
};

constexpr uint32_t kSmallBatchRows = 128;  // at most

/// Whether small_batch() can multiply this matrix with `rows` rows on the card: sm_80 or newer, 1 ... 128 rows, columns a
/// multiple of 8, of 32 where quantised.
bool small_batch_takes(const Card& card, const Matrix& w, uint32_t rows);

/// Whether it is what to take where it can be, rather than cuBLASLt (which a quantised matrix has to be expanded for).
bool small_batch_preferred(const Card& card, const Matrix& w, uint32_t rows);

/// Whether it takes `gated` products with this matrix, and is what to take.
bool small_batch_gates(const Card& card, const Matrix& w, uint32_t rows);

/// Device memory for the sums that several blocks share; enough for every matrix and up to `rows` rows.
size_t small_batch_workspace_bytes(const Card& card, uint32_t rows);

/// Launches on `stream`, returns without waiting and allocates nothing. The order in which a value of y is summed depends on
/// the matrix's shape, its format and the card, not on the number of rows nor on what is in them: a row's result is the same
/// bits alone and among others. cudaErrorInvalidValue: small_batch_takes() is false, or
/// small_batch_gates() where `gated`.
cudaError_t small_batch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
