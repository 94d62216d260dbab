// The kernels behind attention.h, each with its launch function. Arguments have been checked.
#pragma once

#include "cuda/attention.h"
#include "cuda/positions.h"

namespace dca::cuda {

/// Any head size up to 256. With `length` not null the queries end at index *length - 1 instead
/// of starting at args.start.
cudaError_t launch_simple(const PrefillArgs& args, const uint32_t* length, cudaStream_t stream);

/// Whether the fast kernels take this shape.
inline bool fast_shape(const AttentionShape& shape) {
    const int d = shape.head_dim;
    return (d == 64 || d == 80 || d == 96 || d == 128 || d == 256) && shape.rotary_dim % 8 == 0;
}

cudaError_t launch_prefill_sm80(const PrefillArgs& args, cudaStream_t stream);

/// Hopper: TMA and wgmma. Head sizes up to 128; a Q8 cache is widened in the workspace first.
bool prefill_sm90_takes(const PrefillArgs& args, int compute_capability);
cudaError_t launch_prefill_sm90(const PrefillArgs& args, int multiprocessors, cudaStream_t stream);

/// Decode for fast shapes.
cudaError_t launch_decode(const DecodeArgs& args, int multiprocessors, cudaStream_t stream);
size_t decode_workspace_bytes(const AttentionShape& shape, int multiprocessors);

cudaError_t launch_store(const StoreArgs& args, cudaStream_t stream);

/// The order of work for blocks of `block_rows` queries, the sections sized to the current device's L2 cache.
cudaError_t make_work_order(const PrefillArgs& args, const QueryBlocks& blocks, WorkOrder& order);

}  // namespace dca::cuda
