#include "core/tokenizer/byte_characters.h"

#include <array>

#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

constexpr bool printable_byte(unsigned byte) noexcept {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Tables {
    std::array<std::array<char, 2>, 256> spelling{};
    std::array<uint8_t, 256> spelling_bytes{};
    std::array<int16_t, 0x144> byte{};  // by character; -1: none
};

constexpr Tables make_tables() noexcept {
    Tables tables;
    tables.byte.fill(-1);
    unsigned next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
        const unsigned code = printable_byte(byte) ? byte : next++;
        tables.byte[code] = static_cast<int16_t>(byte);
        tables.spelling_bytes[byte] = code < 0x80 ? 1 : 2;
        if (code < 0x80) {
            tables.spelling[byte] = {static_cast<char>(code), 0};
        } else {
            tables.spelling[byte] = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

std::string_view byte_character(uint8_t byte) noexcept { return {kTables.spelling[byte].data(), kTables.spelling_bytes[byte]}; }

std::optional<uint8_t> byte_of_character(char32_t code) noexcept {
    if (code >= kTables.byte.size() || kTables.byte[code] < 0) return std::nullopt;
    return static_cast<uint8_t>(kTables.byte[code]);
}

void append_bytes_of(std::string_view spelling, std::string& bytes) {
    const size_t before = bytes.size();
    for (size_t at = 0; at < spelling.size();) {
        const Character c = character_at(spelling, at);
        const auto byte = byte_of_character(c.code);
        if (!byte) {
            bytes.resize(before);
            bytes += spelling;
            return;
        }
        bytes.push_back(static_cast<char>(*byte));
        at += c.bytes;
    }
}

}  // namespace dca
