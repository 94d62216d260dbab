#include "core/tokenizer/unicode/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <mutex>

#include "core/text.h"
#include "core/tokenizer/unicode/unicode_table.h"

namespace dca {

namespace {

constexpr size_t kCodePoints = 0x110000;

/// The class of each code point, spread out of the ranges at first use: no allocation, so nothing that can fail.
const std::array<CharacterClass, kCodePoints>& classes() noexcept {
    static std::array<CharacterClass, kCodePoints> all;
    static std::once_flag filled;
    std::call_once(filled, [] {
        for (auto range = std::begin(kClassRanges); range != std::end(kClassRanges); ++range) {
            const size_t end = std::next(range) == std::end(kClassRanges) ? kCodePoints : *std::next(range) >> 4;
            std::fill(all.begin() + (*range >> 4), all.begin() + static_cast<ptrdiff_t>(end), static_cast<CharacterClass>(*range & 15));
        }
    });
    return all;
}

uint32_t byte_at(std::string_view text, size_t at) noexcept { return static_cast<unsigned char>(text[at]); }

}  // namespace

CharacterClass class_of(char32_t code) noexcept {
    static const std::array<CharacterClass, kCodePoints>& all = classes();
    return code < kCodePoints ? all[code] : CharacterClass::Other;
}

Character character_at(std::string_view text, size_t at) noexcept {
    if (at >= text.size()) return {};
    const uint32_t first = byte_at(text, at);
    Character found{.code = first, .bytes = first < 0x80 ? 1u : first < 0xe0 ? 2u : first < 0xf0 ? 3u : 4u};
    if (found.bytes > 1) {
        found.code = first & (0x7fu >> found.bytes);
        for (uint32_t i = 1; i < found.bytes; ++i) found.code = found.code << 6 | (byte_at(text, at + i) & 0x3f);
    }
    found.set = set_of(class_of(found.code));
    return found;
}

size_t character_before(std::string_view text, size_t at) noexcept {
    --at;
    while ((byte_at(text, at) & 0xc0) == 0x80) --at;
    return at;
}

size_t first_outside_utf8(std::string_view text) noexcept {
    for (size_t at = 0; at < text.size();) {
        uint32_t code = 0;
        const size_t count = character_bytes(text.substr(at), code);
        if (count == 0) return at;
        at += count;
    }
    return text.size();
}

size_t count_characters(std::string_view text) noexcept {
    return static_cast<size_t>(std::ranges::count_if(text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; }));
}

}  // namespace dca
