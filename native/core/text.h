// Figures in messages.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace dca {

/// "12.3 GB", in units of 10^9 bytes.
inline std::string gigabytes(uint64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f GB", static_cast<double>(bytes) / 1e9);
    return text;
}

}  // namespace dca
