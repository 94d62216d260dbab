// The sum over ranks together with the RMS norm that reads it, for steps of many rows: what crosses the link is in 16 bits, as
// everything between products is. Few rows are pushed to the others by the kernel that adds them; of many, the copy engines mail
// piece after piece while the next one is multiplied, and a kernel adds them once all have come.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/card.h"
#include "cuda/linear/elementwise.h"
#include "cuda/ranks/ahead.h"
#include "cuda/ranks/table.h"

namespace dca::cuda {

/// x += the sum of the ranks' partials, rows of norm.dtype, then norm of x; norm.rows rows. Of F16 what is infinite counts as the
/// largest value there is. The order of additions is that of the ranks, so that all get the same bits.
struct SumNormArgs {
    float* x;
    Partial partial;
    NormArgs norm;  // of x; an RMS norm without a bias
    Ahead ahead;    // of what comes next
};

// All launch on `stream` and return without waiting.

/// At most kPushedRows rows; all ranks launch it.
cudaError_t push_and_norm(const Card& card, const RankTable& table, const SumNormArgs& args, cudaStream_t stream);

/// The others' letters were put into their inboxes by what ran before on `stream`; `number`: 1, 2, ..., the same for all ranks.
cudaError_t signal_mail(const RankTable& table, uint32_t number, cudaStream_t stream);
/// What is launched next finds all others' letters of that number in the inbox.
cudaError_t await_mail(const RankTable& table, uint32_t number, cudaStream_t stream);
/// Adds this rank's partials and the letters.
cudaError_t add_mail_and_norm(const Card& card, const RankTable& table, const SumNormArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
