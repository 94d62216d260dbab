// Figures and foreign text in messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace dca {

/// "12.3 GB", in units of 10^9 bytes.
inline std::string gigabytes(uint64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f GB", static_cast<double>(bytes) / 1e9);
    return text;
}

/// Bytes of the UTF-8 character that `text`, not empty, starts with, and its code point; 0 where it is none (RFC 3629).
size_t character_bytes(std::string_view text, uint32_t& code) noexcept;

/// `text`, wherever it comes from, as it may stand in a line on a terminal: control characters, marks that turn the
/// writing direction and bytes that are not UTF-8 as \xNN, and the middle left out beyond about `most` bytes.
std::string printable(std::string_view text, size_t most);

}  // namespace dca
