// The printable characters that stand for bytes in byte-level BPE, as GPT-2 chose them: bytes that are printable in Latin-1
// stand for themselves, the others for U+0100 onwards in their order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dca {

/// The character of a byte, in UTF-8: one or two bytes.
std::string_view byte_character(uint8_t byte) noexcept;

/// The byte that a character stands for.
std::optional<uint8_t> byte_of_character(char32_t code) noexcept;

/// The bytes that a spelling stands for: its own where a character of it stands for none. Appends to `bytes`.
void append_bytes_of(std::string_view spelling, std::string& bytes);

}  // namespace dca
