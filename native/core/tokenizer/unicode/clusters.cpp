#include "core/tokenizer/unicode/clusters.h"

#include <algorithm>
#include <iterator>

#include "core/tokenizer/unicode/cluster_table.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

/// Bits of kClusterRanges.
enum Joining : uint32_t {
    Extends = 1,   // belongs to the character before it
    Prepends = 2,  // the next one belongs to it
    Controls = 4   // stands alone
};

uint32_t joining(char32_t code) noexcept {
    const auto next = std::ranges::upper_bound(kClusterRanges, code, {}, [](uint32_t range) { return char32_t{range >> 4}; });
    return next == std::begin(kClusterRanges) ? 0 : *std::prev(next) & 15;
}

enum class Hangul { No, L, V, T, Lv, Lvt };

Hangul hangul(char32_t code) noexcept {
    if ((code >= 0x1100 && code <= 0x115f) || (code >= 0xa960 && code <= 0xa97c)) return Hangul::L;
    if ((code >= 0x1160 && code <= 0x11a7) || (code >= 0xd7b0 && code <= 0xd7c6)) return Hangul::V;
    if ((code >= 0x11a8 && code <= 0x11ff) || (code >= 0xd7cb && code <= 0xd7fb)) return Hangul::T;
    if (code < 0xac00 || code > 0xd7a3) return Hangul::No;
    return (code - 0xac00) % 28 == 0 ? Hangul::Lv : Hangul::Lvt;
}

bool one_syllable(Hangul a, Hangul b) noexcept {
    switch (a) {
        case Hangul::L: return b == Hangul::L || b == Hangul::V || b == Hangul::Lv || b == Hangul::Lvt;
        case Hangul::V:
        case Hangul::Lv: return b == Hangul::V || b == Hangul::T;
        case Hangul::T:
        case Hangul::Lvt: return b == Hangul::T;
        case Hangul::No: break;
    }
    return false;
}

bool together(char32_t a, char32_t b) noexcept {
    if (a == '\r' && b == '\n') return true;
    if (a < 0x80 && b < 0x80) return false;
    const uint32_t before = joining(a), after = joining(b);
    if (((before | after) & Controls) != 0) return false;
    return (after & Extends) != 0 || (before & Prepends) != 0 || one_syllable(hangul(a), hangul(b));
}

}  // namespace

size_t cluster_end(std::string_view text, size_t at) noexcept {
    Character last = character_at(text, at);
    size_t end = at + last.bytes;
    while (end < text.size()) {
        const Character next = character_at(text, end);
        if (!together(last.code, next.code)) break;
        end += next.bytes;
        last = next;
    }
    return end;
}

}  // namespace dca
