// Models that need what these kernels lack are refused when they are loaded: nothing is ever left out of a computation.
#pragma once

#include "core/hparams.h"
#include "core/weights.h"

namespace dca::cuda {

/// Throws an unsupported error that names the first thing the model needs and this backend lacks.
void check_supported(const Hparams& hparams, const Weights& weights);

}  // namespace dca::cuda
