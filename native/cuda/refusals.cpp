#include "cuda/refusals.h"

#include "core/error.h"

namespace dca::cuda {

void check_supported(const Hparams& h) {
    // A router's matrix has the norm before it multiplied in (weights/weights.cpp).
    if (h.n_experts == 0 || (h.norms == Norms::Before && h.norm == NormKind::Rms)) return;
    fail(DCA_ERROR_UNSUPPORTED, "this ", h.architecture,
         " model is a mixture of experts behind another norm than an RMS norm before each block, which the CUDA backend does not run yet; "
         "use device cpu");
}

}  // namespace dca::cuda
