// The sum over ranks behind attention and feed-forward, in f32: every card writes to the others' memory, or reads it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/ranks/table.h"

namespace dca::cuda {

/// x[i] += the sum of the ranks' partials, for n values, a multiple of 4. All ranks launch the same sums in the same order; the
/// order of additions is that of the ranks, so that all get the same bits.
struct SumArgs {
    float* x;
    Partial partial;
    uint64_t n;
    bool waits;  // for the others' partials; else they are there
};

// All launch on `stream` and return without waiting.

/// What ran before on `stream` is there for the others; `number`: 1, 2, ..., the same for all ranks.
cudaError_t signal_others(const RankTable& table, uint32_t number, cudaStream_t stream);
/// What is launched next finds all others to have signalled that number.
cudaError_t await_others(const RankTable& table, uint32_t number, cudaStream_t stream);

cudaError_t sum_ranks(const Card& card, const RankTable& table, const SumArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
