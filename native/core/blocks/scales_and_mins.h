// Unpacking the scales of the K formats.
//
// Internal linkage on purpose: units compiled for different instruction sets include this file.
#pragma once

#include <cstdint>

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

}  // namespace
}  // namespace dca
