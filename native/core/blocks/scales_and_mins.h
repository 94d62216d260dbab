// Unpacking the 6-bit scales of the formats of super-blocks.
//
// Internal linkage on purpose: units compiled for different instruction sets include this file.
#pragma once

#include <cstdint>

#include "core/blocks/layouts.h"

namespace dca {
namespace {

/// The 6-bit scales and minima of Q4_K and Q5_K.
struct ScalesAndMins {
    uint8_t scale[8], min[8];

    explicit ScalesAndMins(const uint8_t (&packed)[12]) {
        for (int j = 0; j < 4; ++j) {
            scale[j] = packed[j] & 63;
            min[j] = packed[j + 4] & 63;
            scale[j + 4] = static_cast<uint8_t>((packed[j + 8] & 15) | (packed[j] >> 6) << 4);
            min[j + 4] = static_cast<uint8_t>((packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4);
        }
    }
};

/// The scale of sub-block j, -32 ... 31.
[[gnu::always_inline]] inline int iq4_xs_scale(const BlockIQ4_XS& block, int j) {
    const int low = block.scales_l[j / 2] >> 4 * (j % 2) & 15, high = block.scales_h >> 2 * j & 3;
    return (low | high << 4) - 32;
}

}  // namespace
}  // namespace dca
