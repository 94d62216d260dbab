#include "cuda/session.h"

#include <cmath>

#include "cuda/experts/router.h"
#include "cuda/linear/elementwise.h"

namespace dca::cuda {

namespace {

AttentionShape attention_shape(const Hparams& h) {
    return {
        .n_heads = static_cast<int32_t>(h.n_heads),
        .n_kv_heads = static_cast<int32_t>(h.n_kv_heads),
        .head_dim = static_cast<int32_t>(h.head_dim),
        .rotary_dim = static_cast<int32_t>(h.rotary_dim),
        .rope_interleaved = h.rope_layout == RopeLayout::Interleaved,
        .scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim)),
    };
}

}  // namespace

CudaSession::CudaSession(const Hparams& hparams, const DeviceWeights& device_weights, const Device& card, const EngineSpec& spec)
    : h(hparams),
      weights(device_weights),
      device(card),
      shape(attention_shape(hparams)),
      scheme(spec.scheme),
      memory(hparams, weights, device, shape, spec),
      stream(make_stream()) {}

void CudaSession::norm_heads(const DeviceLayer& w) {
    if (w.q_norm == nullptr) return;
    const HeadNormArgs args{qkv(),        weights.dtype(), rows,     qkv_width(), h.n_heads,
                            h.n_kv_heads, h.head_dim,      w.q_norm, w.k_norm,    h.rms_epsilon};
    check(head_norm(device.card, args, stream.get()), "norming heads");
}

void CudaSession::store_keys_values(uint32_t layer, const uint32_t* length) {
    const std::byte* keys = qkv() + size_t{2} * h.q_width();
    const StoreArgs args{
        .shape = shape,
        .scheme = scheme,
        .cache = memory.cache[layer],
        .rotary = memory.rotary,
        .k = keys,
        .v = keys + size_t{2} * h.kv_width(),
        .k_stride = qkv_width(),
        .v_stride = qkv_width(),
        .dtype = weights.dtype(),
        .start = start,
        .length = length,
        .n_tokens = rows,
    };
    check(cuda::store_keys_values(args, stream.get()), "storing keys and values");
}

void CudaSession::choose_experts(const DeviceLayer& w, const float* factors) {
    const ExpertMemory& m = memory.experts;
    const ChooseArgs args{
        .logits = m.logits,
        .rows = rows,
        .stride = router_rows(h.n_experts),
        .factors = factors,
        .n_experts = h.n_experts,
        .n_used = h.n_experts_used,
        .normalised = h.expert_weights_norm,
        .shared_gated = w.shared_gated,
        .scale = h.expert_weights_scale,
        .experts = m.chosen,
        .weights = m.weights,
    };
    check(cuda::choose_experts(device.card, args, stream.get()), "choosing experts");
}

}  // namespace dca::cuda
