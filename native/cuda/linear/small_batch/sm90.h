// The products with few rows on Hopper (sm90.cuh, dense_sm90.cuh): which matrices they take, and their launch.
#pragma once

#include "cuda/linear/small_batch/small_batch.h"

namespace dca::cuda::few::sm90 {

/// Rows of 16-bit weights that a block of threads has at a time (dense_sm90.cuh).
constexpr uint32_t kDenseRows = 64;

/// Matrices of a tile's rows at least, with planes whose rows are multiples of 16 bytes: the copy engine's condition.
bool takes(const Card& card, const Matrix& w);

/// kN (16, 32 or 64) rows of x at a time. The arguments have been checked.
template <int kN>
cudaError_t launch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream);

}  // namespace dca::cuda::few::sm90
