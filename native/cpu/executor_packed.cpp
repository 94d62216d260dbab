// Products of matrices that were repacked at load (packed.h).
#include "cpu/executor.h"

namespace dca::cpu {

void CpuExecutor::pack_input(const float* x, int cols, int tokens, std::initializer_list<const Tensor*> readers) {
    bool wanted = false;
    for (const Tensor* reader : readers) wanted |= packed_.find(*reader) != nullptr;
    if (!wanted) return;
    packed_tokens_ = tokens;
    if (lanes_ == 1) {
        kernels_.packed->pack_tokens(x, 1, tokens, cols, packed_x_.data());
        return;
    }
    const size_t bundle_bytes = packed_token_bytes(packed_bundle, cols);
    pool_.run((tokens + packed_bundle - 1) / packed_bundle, [&](int bundle, int) {
        const int token = bundle * packed_bundle;
        const float* lane = x + size_t(token / panel_lanes) * cols * panel_lanes + token % panel_lanes;
        kernels_.packed->pack_tokens(lane, lanes_, packed_bundle, cols, packed_x_.data() + bundle * bundle_bytes);
    });
}

void CpuExecutor::multiply_packed(const Tensor& w, const std::byte* groups, int first, int count, float* y, int y_width, const float* bias,
                                  bool accumulate) {
    kernels_.packed->multiply({.type = w.type,
                               .w = groups + size_t(first / packed_rows) * packed_group_bytes(w.type, w.cols),
                               .rows = count,
                               .cols = static_cast<int>(w.cols),
                               .x = packed_x_.data(),
                               .tokens = packed_tokens_,
                               .lanes = lanes_,
                               .y = y + size_t(first) * lanes_,
                               .y_panel_stride = size_t(y_width) * lanes_,
                               .bias = bias == nullptr ? nullptr : bias + first,
                               .accumulate = accumulate});
}

}  // namespace dca::cpu
