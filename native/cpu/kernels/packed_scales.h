// Scales of packed rows (packed.h), as many as a vector holds.
//
// Internal linkage on purpose: each cpu/kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/simd.h"

namespace dca::cpu {
namespace {

template <class Format>
[[gnu::always_inline]] inline F load_scales(const std::byte* p) {
    const auto* bits = reinterpret_cast<const uint16_t*>(p);
    F scales;
    if constexpr (Format::power)
        scales = load_bf16(bits);
    else
        scales = load_f16(bits);
    if constexpr (Format::Levels::kDivisor != 1) scales *= 1.0f / Format::Levels::kDivisor;
    return scales;
}

}  // namespace
}  // namespace dca::cpu
