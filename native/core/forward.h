// The forward pass of a decoder-only transformer with RoPE, RMS norm and gated feed-forward.
#pragma once

#include <cstdint>
#include <span>

#include "core/backend.h"

namespace dca {

/// Appends `tokens` (at most executor.prefill_block()) at index `start`. Afterwards the
/// executor keeps the last `wanted` rows for logits() or nll(); 0: only the cache is filled.
void forward(Executor& executor, const Hparams& hparams, std::span<const int32_t> tokens, uint32_t start, uint32_t wanted);

}  // namespace dca
