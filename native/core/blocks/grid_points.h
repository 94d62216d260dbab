// The points of a block of IQ2 and IQ3 (layouts.h): which of the grid's, with what signs, under what scale.
//
// Internal linkage on purpose: translation units compiled for different instruction sets include this file.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/blocks/grids.h"
#include "core/blocks/layouts.h"

namespace dca {
namespace {

/// Magnitudes, and for each a bit of `signs`, 1 for minus.
template <size_t kValues_>
struct GridPoint {
    static constexpr int kValues = kValues_;
    const std::array<uint8_t, kValues_>& magnitudes;
    unsigned signs;
};

/// Signs of eight values, a bit each, from seven bits: there is an even number of minus signs.
[[gnu::always_inline]] inline unsigned even_signs(unsigned seven) noexcept {
    return seven | (static_cast<unsigned>(std::popcount(seven)) & 1u) << 7;
}

/// The 32 bits of signs and scale of a sub-block of IQ2_XXS.
[[gnu::always_inline]] inline uint32_t signs_and_scale(const BlockIQ2_XXS& block, int sub) noexcept {
    return block.qs[4 * sub + 2] | static_cast<uint32_t>(block.qs[4 * sub + 3]) << 16;
}
[[gnu::always_inline]] inline uint32_t signs_and_scale(const BlockIQ3_XXS& block, int sub) noexcept {
    uint32_t word;
    std::memcpy(&word, block.scales_and_signs + 4 * sub, sizeof word);
    return word;
}

// point_of(block, k): point k of the block.

[[gnu::always_inline]] inline GridPoint<8> point_of(const BlockIQ2_XXS& block, int k) noexcept {
    const unsigned index = block.qs[4 * (k / 4) + k % 4 / 2] >> 8 * (k % 2) & 255u;
    return {kGridIQ2_XXS[index], even_signs(signs_and_scale(block, k / 4) >> 7 * (k % 4) & 127u)};
}
[[gnu::always_inline]] inline GridPoint<8> point_of(const BlockIQ2_XS& block, int k) noexcept {
    return {kGridIQ2_XS[block.qs[k] & 511u], even_signs(block.qs[k] >> 9)};
}
[[gnu::always_inline]] inline GridPoint<8> point_of(const BlockIQ2_S& block, int k) noexcept {
    return {kGridIQ2_S[block.qs[k] | (block.qh[k / 4] >> 2 * (k % 4) & 3u) << 8], block.signs[k]};
}
[[gnu::always_inline]] inline GridPoint<4> point_of(const BlockIQ3_XXS& block, int k) noexcept {
    return {kGridIQ3_XXS[block.qs[k]], even_signs(signs_and_scale(block, k / 8) >> 7 * (k % 8 / 2) & 127u) >> 4 * (k % 2)};
}
[[gnu::always_inline]] inline GridPoint<4> point_of(const BlockIQ3_S& block, int k) noexcept {
    const unsigned index = block.qs[k] | (block.qh[k / 8] >> k % 8 & 1u) << 8;
    return {kGridIQ3_S[index], static_cast<unsigned>(block.signs[k / 2]) >> 4 * (k % 2)};
}

// odd_scale(block, sub): 2 sc + 1 of a sub-block, 1 ... 31.

[[gnu::always_inline]] inline int odd_scale(const BlockIQ2_XXS& block, int sub) noexcept {
    return 2 * static_cast<int>(signs_and_scale(block, sub) >> 28) + 1;
}
[[gnu::always_inline]] inline int odd_scale(const BlockIQ3_XXS& block, int sub) noexcept {
    return 2 * static_cast<int>(signs_and_scale(block, sub) >> 28) + 1;
}
template <class Block>
[[gnu::always_inline]] inline int odd_scale(const Block& block, int sub) noexcept {
    return 2 * (block.scales[sub / 2] >> 4 * (sub % 2) & 15) + 1;
}

/// What a format's blocks have in common: a value is d * kUnit * odd_scale * magnitude, exactly, under its sign.
template <class Block>
struct GridFormat;
template <>
struct GridFormat<BlockIQ2_XXS> {
    static constexpr float kUnit = 0.125f;
    static constexpr int kSub = 32;  // values of a sub-block
};
template <>
struct GridFormat<BlockIQ2_XS> {
    static constexpr float kUnit = 0.125f;
    static constexpr int kSub = 16;
};
template <>
struct GridFormat<BlockIQ2_S> : GridFormat<BlockIQ2_XS> {};
template <>
struct GridFormat<BlockIQ3_XXS> {
    static constexpr float kUnit = 0.25f;
    static constexpr int kSub = 32;
};
template <>
struct GridFormat<BlockIQ3_S> {
    static constexpr float kUnit = 1.0f;
    static constexpr int kSub = 32;
};

}  // namespace
}  // namespace dca
