// Prefill over a Q8 cache through 16-bit tiles in the workspace.
#pragma once

#include "cuda/attention_kernels.h"

namespace dca::cuda {

/// Bytes before the widened rows: the Hopper kernel's own workspace.
constexpr size_t kWidenedOffset = 256;

/// Device bytes of one key head's keys and values, widened.
inline size_t widened_head_bytes(const AttentionShape& shape, uint64_t context) { return 2 * context * shape.head_dim * 2; }

/// Whether there is room for at least one key head and enough work to pay for widening it.
bool widening_pays(const PrefillArgs& args);

/// Key heads in as few groups as the workspace holds, each widened to f16 and then attended to.
cudaError_t launch_prefill_widened(const PrefillArgs& args, int multiprocessors, cudaStream_t stream);

}  // namespace dca::cuda
