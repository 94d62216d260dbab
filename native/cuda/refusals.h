// Models that need what these kernels lack are refused when they are loaded: nothing is ever left out of a computation.
#pragma once

#include "core/hparams.h"

namespace dca::cuda {

/// Throws an unsupported error that names what the model needs and this backend lacks.
void check_supported(const Hparams& hparams);

}  // namespace dca::cuda
