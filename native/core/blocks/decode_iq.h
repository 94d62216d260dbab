// Decoders of the formats whose values are points of a grid (IQ2, IQ3), or levels of a table under 6-bit scales (IQ4_XS) or a
// power of two (MXFP4). As decode.h.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "core/blocks/grids.h"
#include "core/blocks/half.h"
#include "core/blocks/layouts.h"

namespace dca {
namespace {

/// Signs of eight values, a bit each, from seven bits: there is an even number of minus signs.
inline unsigned even_signs(unsigned seven) noexcept { return seven | (static_cast<unsigned>(std::popcount(seven)) & 1u) << 7; }

/// out[i] = scale · point[i], negative where its bit of `signs` is set.
template <class Point>
[[gnu::always_inline]] inline void store_point(const Point& point, float scale, unsigned signs, float* out) {
    for (size_t i = 0; i < point.size(); ++i) {
        const float value = scale * static_cast<float>(point[i]);
        out[i] = signs >> i & 1u ? -value : value;
    }
}

void decode(const BlockIQ2_XXS& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 32; ++j, out += 32) {
        const uint16_t* word = block.qs + 4 * j;
        const uint32_t high = word[2] | static_cast<uint32_t>(word[3]) << 16;
        const float scale = d * (0.5f + static_cast<float>(high >> 28)) * 0.25f;
        for (int k = 0; k < 4; ++k) {
            const unsigned index = word[k / 2] >> 8 * (k % 2) & 255u;
            store_point(kGridIQ2_XXS[index], scale, even_signs(high >> 7 * k & 127u), out + 8 * k);
        }
    }
}

void decode(const BlockIQ2_XS& block, float* out) {
    const float d = half_to_float(block.d);
    for (int k = 0; k < kSuperBlock / 8; ++k) {
        const int level = block.scales[k / 4] >> 4 * (k / 2 % 2) & 15;
        const float scale = d * (0.5f + static_cast<float>(level)) * 0.25f;
        store_point(kGridIQ2_XS[block.qs[k] & 511u], scale, even_signs(block.qs[k] >> 9), out + 8 * k);
    }
}

void decode(const BlockIQ2_S& block, float* out) {
    const float d = half_to_float(block.d);
    for (int k = 0; k < kSuperBlock / 8; ++k) {
        const int level = block.scales[k / 4] >> 4 * (k / 2 % 2) & 15;
        const float scale = d * (0.5f + static_cast<float>(level)) * 0.25f;
        const unsigned index = block.qs[k] | (block.qh[k / 4] >> 2 * (k % 4) & 3u) << 8;
        store_point(kGridIQ2_S[index], scale, block.signs[k], out + 8 * k);
    }
}

void decode(const BlockIQ3_XXS& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 32; ++j, out += 32) {
        uint32_t word;
        std::memcpy(&word, block.scales_and_signs + 4 * j, sizeof word);
        const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
        for (int k = 0; k < 8; ++k) {
            const unsigned signs = even_signs(word >> 7 * (k / 2) & 127u) >> 4 * (k % 2);
            store_point(kGridIQ3_XXS[block.qs[8 * j + k]], scale, signs, out + 4 * k);
        }
    }
}

void decode(const BlockIQ3_S& block, float* out) {
    const float d = half_to_float(block.d);
    for (int k = 0; k < kSuperBlock / 4; ++k) {
        const int level = block.scales[k / 16] >> 4 * (k / 8 % 2) & 15;
        const float scale = d * static_cast<float>(1 + 2 * level);
        const unsigned index = block.qs[k] | (block.qh[k / 8] >> k % 8 & 1u) << 8;
        store_point(kGridIQ3_S[index], scale, static_cast<unsigned>(block.signs[k / 2]) >> 4 * (k % 2), out + 4 * k);
    }
}

void decode(const BlockIQ4_XS& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 32; ++j, out += 32) {
        const int low = block.scales_l[j / 2] >> 4 * (j % 2) & 15, high = block.scales_h >> 2 * j & 3;
        const float scale = d * static_cast<float>((low | high << 4) - 32);
        const uint8_t* qs = block.qs + 16 * j;
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>(kIQ4NLValues[qs[i] & 15]);
            out[i + 16] = scale * static_cast<float>(kIQ4NLValues[qs[i] >> 4]);
        }
    }
}

/// 2^(e - 128), also where that is below the smallest normal number.
inline float mxfp4_scale(uint8_t e) noexcept { return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23); }

void decode(const BlockMXFP4& block, float* out) {
    const float d = mxfp4_scale(block.e);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(kMXFP4Values[block.qs[i] & 15]);
        out[i + 16] = d * static_cast<float>(kMXFP4Values[block.qs[i] >> 4]);
    }
}

}  // namespace
}  // namespace dca
