// The forward pass of a decoder-only transformer with RoPE, RMS norm and gated feed-forward.
#pragma once

#include "core/backend/batch.h"
#include "core/backend/operations.h"
#include "core/hparams.h"

namespace dca {

/// Runs a batch. Where no row of it is wanted, only the cache is filled. `last`: the layers end with the model's last, whose
/// output is read only where something is wanted of it; else all of it is what other layers go on with.
void forward(Operations& operations, const Hparams& hparams, const Batch& batch, bool last = true);

}  // namespace dca
