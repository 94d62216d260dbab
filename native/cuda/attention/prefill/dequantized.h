// Prefill over a cache of codes through 16-bit tiles in the workspace.
#pragma once

#include "cuda/attention/kernels.h"

namespace dca::cuda {

/// Bytes before the dequantized rows: the Hopper kernel's own workspace.
constexpr size_t kDequantizedOffset = kCounterBytes + kPartsBytes;

/// Device bytes of one key head's keys and values, dequantized.
inline size_t dequantized_head_bytes(const AttentionShape& shape, uint64_t context) {
    return size_t{2} * pages_for(context) * kPageTokens * shape.head_dim * 2;
}

/// Whether there is room for at least one key head.
bool has_room_to_dequantize(const PrefillArgs& args);

/// Whether there is none, but for pieces of its keys, which the Hopper kernel takes one after the other.
bool has_room_for_pieces(const Card& card, const PrefillArgs& args);

/// Whether there is room, and also enough work to pay for dequantizing.
bool dequantizing_pays(const Card& card, const PrefillArgs& args);

/// Key heads in as few groups as the workspace holds, or pieces of one, each dequantized to f16, turned back and then attended to by
/// `kernel`.
using PrefillLaunch = cudaError_t (*)(const Card& card, const PrefillArgs& args, cudaStream_t stream);
cudaError_t launch_prefill_dequantized(const Card& card, const PrefillArgs& args, PrefillLaunch kernel, cudaStream_t stream);

}  // namespace dca::cuda
