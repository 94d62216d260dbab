#include "cuda/linear/small_batch/sm90.h"

#include "cuda/linear/small_batch/layout.h"

namespace dca::cuda::few::sm90 {

bool takes(const Card& card, const Matrix& w) {
#if defined(DCA_CUDA_SM90A)
    if (card.compute_capability != 90 || w.rows < kTileRows) return false;
    bool aligned = true;  // low and high planes' rows always are
    visit_planes(w.format, [&](auto planes) { aligned = padded_units(w.cols) * decltype(planes)::kScaleHalves * 2 % 16 == 0; });
    return aligned;
#else
    static_cast<void>(card), static_cast<void>(w);
    return false;  // built without machine code for sm_90a
#endif
}

}  // namespace dca::cuda::few::sm90
