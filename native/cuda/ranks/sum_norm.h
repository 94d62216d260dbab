// The sum over ranks together with the RMS norm that reads it, for steps of many rows: what crosses the link is in 16 bits, as
// everything between products is. Few rows are pushed to the others by the kernel that adds them, or read where they lie; of many,
// the copy engines mail piece after piece while the next one is multiplied, and a kernel adds them once all have come.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/linear/elementwise.h"
#include "cuda/ranks/table.h"

namespace dca::cuda {

/// x += the sum of the ranks' partials, rows of norm.dtype, then norm of x; norm.rows rows. Of F16 what is infinite counts as the
/// largest value there is. The order of additions is that of the ranks, so that all get the same bits.
struct SumNormArgs {
    float* x;
    Partial partial;
    NormArgs norm;  // of x; an RMS norm without a bias
    bool mailed;    // the others' partials were put into this rank's inbox; else they are read where they lie
};

// All launch on `stream` and return without waiting.

/// Waits for the others' partials. At most kPushedRows rows; all ranks launch it.
cudaError_t push_and_norm(const Card& card, const RankTable& table, const SumNormArgs& args, cudaStream_t stream);

/// The others' partials are there.
cudaError_t add_and_norm(const RankTable& table, const SumNormArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
