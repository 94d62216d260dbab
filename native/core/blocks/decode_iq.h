// Decoders of the formats whose values are points of a grid (IQ2, IQ3), or levels of a table under 6-bit scales (IQ4_XS) or a
// power of two (MXFP4). As decode.h.
#pragma once

#include <cstdint>

#include "core/blocks/grid_points.h"
#include "core/blocks/half.h"
#include "core/blocks/layouts.h"
#include "core/blocks/scales_and_mins.h"

namespace dca {
namespace {

/// The formats of grids.
template <class Block>
[[gnu::always_inline]] inline void decode_points(const Block& block, float* out) {
    constexpr int values = decltype(point_of(block, 0))::kValues;
    const float d = half_to_float(block.d) * GridFormat<Block>::kUnit;
    for (int k = 0; k < kSuperBlock / values; ++k, out += values) {
        const auto point = point_of(block, k);
        const float scale = d * static_cast<float>(odd_scale(block, k * values / GridFormat<Block>::kSub));
        for (int i = 0; i < values; ++i) {
            const float value = scale * static_cast<float>(point.magnitudes[static_cast<size_t>(i)]);
            out[i] = point.signs >> i & 1u ? -value : value;
        }
    }
}

void decode(const BlockIQ2_XXS& block, float* out) { decode_points(block, out); }
void decode(const BlockIQ2_XS& block, float* out) { decode_points(block, out); }
void decode(const BlockIQ2_S& block, float* out) { decode_points(block, out); }
void decode(const BlockIQ3_XXS& block, float* out) { decode_points(block, out); }
void decode(const BlockIQ3_S& block, float* out) { decode_points(block, out); }

void decode(const BlockIQ4_XS& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 32; ++j, out += 32) {
        const float scale = d * static_cast<float>(iq4_xs_scale(block, j));
        const uint8_t* qs = block.qs + 16 * j;
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>(kIQ4NLValues[qs[i] & 15]);
            out[i + 16] = scale * static_cast<float>(kIQ4NLValues[qs[i] >> 4]);
        }
    }
}

void decode(const BlockMXFP4& block, float* out) {
    const float d = mxfp4_scale(block.e);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(kMXFP4Values[block.qs[i] & 15]);
        out[i + 16] = d * static_cast<float>(kMXFP4Values[block.qs[i] >> 4]);
    }
}

}  // namespace
}  // namespace dca
