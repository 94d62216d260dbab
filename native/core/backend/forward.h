// The forward pass of a decoder-only transformer with RoPE, RMS norm and gated feed-forward.
#pragma once

#include "core/backend/backend.h"
#include "core/backend/batch.h"

namespace dca {

/// Runs a batch of at most executor.max_rows() rows. Afterwards the executor keeps every slice's wanted rows for
/// logits(), nll() or sample(); where none is wanted, only the cache is filled.
void forward(Executor& executor, const Hparams& hparams, const Batch& batch);

}  // namespace dca
