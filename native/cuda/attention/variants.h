// Which of the compiled kernels a layer's attention takes; host and device.
#pragma once

#include "core/positions/host_device.h"
#include "cuda/attention/attention.h"

namespace dca::cuda {

/// Windowed and Capped kernels also run what has no window, and add sinks where there are some; only Capped ones cap. A border
/// that moves with the query is a window of its ranges.
enum class Variant { Plain, Windowed, Capped };

DCA_HOST_DEVICE Variant variant_of(const AttentionTraits& traits, const Scheme& scheme) {
    if (traits.cap != 0.0f) return Variant::Capped;
    return traits.window != 0 || traits.sinks != nullptr || scheme.moves() ? Variant::Windowed : Variant::Plain;
}

/// Head sizes that the fast kernels are compiled for: plain ones for all of fast_shape(), others for those of the families
/// that need them.
constexpr bool compiled(Variant variant, int head_dim) {
    switch (variant) {
        case Variant::Plain: return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 || head_dim == 256;
        case Variant::Windowed: return head_dim == 64 || head_dim == 128 || head_dim == 256;
        case Variant::Capped: return head_dim == 128 || head_dim == 256;
    }
    return false;
}

constexpr float kLog2E = 1.44269504088896340736f;

/// How logits, products of queries and keys, become logits in powers of two: times scale_log2, or, capped, as cap_logit() has
/// it and then times scale_log2, which is 1.
struct LogitScale {
    float scale_log2;
    float into_tanh, from_tanh;  // scale / cap, cap log2(e)

    LogitScale() = default;
    LogitScale(float scale, const AttentionTraits& traits)
        : scale_log2(traits.cap != 0.0f ? 1.0f : scale * kLog2E),
          into_tanh(traits.cap != 0.0f ? scale / traits.cap : 0.0f),
          from_tanh(traits.cap * kLog2E) {}
};

}  // namespace dca::cuda
