#include "core/tokenizer/pretokenizer/patterns.h"

#include <cstdint>

#include "core/tokenizer/pretokenizer/cased_letters.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca::patterns {

namespace {

constexpr ClassSet kUpperLike = kUpper | kTitle | kCaseless | kMark;  // U
constexpr ClassSet kLowerLike = kLower | kCaseless | kMark;           // L

/// The end of the longest run of at most `most` characters that `wanted` takes.
template <class Wanted>
size_t run(std::string_view piece, size_t at, Wanted wanted, size_t most = SIZE_MAX) noexcept {
    for (; most != 0; --most) {
        const Character c = character_at(piece, at);
        if (c.bytes == 0 || !wanted(c)) break;
        at += c.bytes;
    }
    return at;
}

size_t run_of(std::string_view piece, size_t at, ClassSet set, size_t most = SIZE_MAX) noexcept {
    return run(piece, at, [set](const Character& c) { return c.in(set); }, most);
}

size_t line_ends(std::string_view piece, size_t at) noexcept {
    return run(piece, at, [](const Character& c) { return c.ends_line(); });
}

/// `head?body`: with the head where a body follows it, else without.
template <class Head, class Body>
size_t after_head(std::string_view piece, size_t at, Head head, Body body) noexcept {
    const Character c = character_at(piece, at);
    if (c.bytes != 0 && head(c)) {
        const size_t end = body(at + c.bytes);
        if (end != at + c.bytes) return end;
    }
    return body(at);
}

bool is_space_sign(const Character& c) noexcept { return c.code == ' '; }

/// [^\r\n\p{L}\p{N}]
bool begins_word(const Character& c) noexcept { return !c.ends_line() && !c.in(kLetter | kNumber); }

/// ` ?[set]+`
size_t after_space_sign(std::string_view piece, size_t at, ClassSet set) noexcept {
    return after_head(piece, at, is_space_sign, [&](size_t from) { return run_of(piece, from, set); });
}

/// `\s?[set]+`
size_t after_space(std::string_view piece, size_t at, ClassSet set) noexcept {
    return after_head(piece, at, [](const Character& c) { return c.in(kSpace); }, [&](size_t from) { return run_of(piece, from, set); });
}

/// `'s|'t|'re|'ve|'m|'ll|'d`; where case does not count, ſ is an s.
size_t contraction(std::string_view piece, size_t at, bool any_case) noexcept {
    if (at >= piece.size() || piece[at] != '\'') return at;
    const auto letter = [&](size_t index) -> char {
        if (index >= piece.size()) return '\0';
        const char c = piece[index];
        return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = letter(at + 1), second = letter(at + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    if (any_case && piece.substr(at + 1).starts_with("\u017f")) return at + 3;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return at + 3;
    return at;
}

/// `\s+(?!\S)|\s+` with the whole run's end known: all of it at the piece's end, else all but its last, which goes with
/// what follows, unless it is alone.
size_t spaces_until(std::string_view piece, size_t at, size_t end) noexcept {
    if (end == at || end == piece.size()) return end;
    const size_t last = character_before(piece, end);
    return last > at ? last : end;
}

size_t spaces(std::string_view piece, size_t at) noexcept { return spaces_until(piece, at, run_of(piece, at, kSpace)); }

/// `\s*[\r\n]+|\s+(?!\S)|\s+`
size_t spaces_and_lines(std::string_view piece, size_t at) noexcept {
    size_t after_last_line = at;
    size_t end = at;
    for (;;) {
        const Character c = character_at(piece, end);
        if (!c.in(kSpace)) break;
        end += c.bytes;
        if (c.ends_line()) after_last_line = end;
    }
    return after_last_line != at ? after_last_line : spaces_until(piece, at, end);
}

/// Everything behind the contractions of the shape that GPT-4's tokenizer began.
size_t words(std::string_view piece, size_t at, ClassSet letters, size_t most_digits) noexcept {
    if (const size_t end = contraction(piece, at, true); end != at) return end;
    const size_t word = after_head(piece, at, begins_word, [&](size_t from) { return run_of(piece, from, letters); });
    if (word != at) return word;
    if (const size_t end = run_of(piece, at, kNumber, most_digits); end != at) return end;
    if (const size_t end = after_space_sign(piece, at, ~(kSpace | letters | kNumber)); end != at) return line_ends(piece, end);
    return spaces_and_lines(piece, at);
}

/// `U*L+`: where no lower case follows the run of U, its last letter without case is L's.
size_t upper_then_lower(std::string_view piece, size_t at) noexcept {
    size_t end = at, after_last_caseless = at;
    for (;;) {
        const Character c = character_at(piece, end);
        if (!c.in(kUpperLike)) break;
        end += c.bytes;
        if (c.in(kLowerLike)) after_last_caseless = end;
    }
    const size_t lower = run_of(piece, end, kLowerLike);
    return lower != end ? lower : after_last_caseless;
}

/// `U+L*`
size_t upper_and_lower(std::string_view piece, size_t at) noexcept {
    const size_t end = run_of(piece, at, kUpperLike);
    return end == at ? at : run_of(piece, end, kLowerLike);
}

size_t cased(std::string_view piece, size_t at, size_t most_digits, bool contracts) noexcept {
    size_t word = after_head(piece, at, begins_word, [&](size_t from) { return upper_then_lower(piece, from); });
    if (word == at) word = after_head(piece, at, begins_word, [&](size_t from) { return upper_and_lower(piece, from); });
    if (word != at) return contracts ? contraction(piece, word, true) : word;
    if (const size_t end = run_of(piece, at, kNumber, most_digits); end != at) return end;
    if (const size_t end = after_space_sign(piece, at, ~(kSpace | kLetter | kNumber)); end != at)
        return run(piece, end, [](const Character& c) { return c.ends_line() || c.code == '/'; });
    return spaces_and_lines(piece, at);
}

bool ascii_letter(const Character& c) noexcept { return (c.code >= 'A' && c.code <= 'Z') || (c.code >= 'a' && c.code <= 'z'); }

bool ascii_sign(const Character& c) noexcept {
    return c.code > ' ' && c.code < 0x7f && !ascii_letter(c) && !(c.code >= '0' && c.code <= '9');
}

bool in_range(const Character& c, char32_t first, char32_t last) noexcept { return c.code >= first && c.code <= last; }

bool any_of_signs(const Character& c, std::u32string_view others) noexcept {
    return c.in(kPunctuation) || others.find(c.code) != std::u32string_view::npos;
}

}  // namespace

size_t digit(std::string_view piece, size_t at) noexcept { return run_of(piece, at, kNumber, 1); }
size_t digits(std::string_view piece, size_t at) noexcept { return run_of(piece, at, kNumber); }
size_t three_digits(std::string_view piece, size_t at) noexcept { return run_of(piece, at, kNumber, 3); }

size_t three_ascii_digits(std::string_view piece, size_t at) noexcept {
    const size_t end = run(piece, at, [](const Character& c) { return in_range(c, '0', '9'); }, 3);
    return end == at + 3 ? end : at;
}

size_t line_end(std::string_view piece, size_t at) noexcept { return character_at(piece, at).ends_line() ? at + 1 : at; }

size_t trailing_space(std::string_view piece, size_t at) noexcept {
    if (at != 0 && character_at(piece, character_before(piece, at)).in(kSpace)) return at;
    const size_t end = run_of(piece, at, kSpace);
    return end == piece.size() ? end : at;
}

size_t gpt2(std::string_view piece, size_t at) noexcept {
    if (const size_t end = contraction(piece, at, false); end != at) return end;
    for (const ClassSet set : {kLetter, kNumber, ~(kSpace | kLetter | kNumber)}) {
        if (const size_t end = after_space_sign(piece, at, set); end != at) return end;
    }
    return spaces(piece, at);
}

size_t words_three_digits(std::string_view piece, size_t at) noexcept { return words(piece, at, kLetter, 3); }
size_t words_one_digit(std::string_view piece, size_t at) noexcept { return words(piece, at, kLetter, 1); }
size_t words_with_marks(std::string_view piece, size_t at) noexcept { return words(piece, at, kLetter | kMark, 1); }
size_t cased_words(std::string_view piece, size_t at) noexcept { return cased(piece, at, 3, true); }
size_t cased_words_one_digit(std::string_view piece, size_t at) noexcept { return cased(piece, at, 1, false); }

size_t deepseek_words(std::string_view piece, size_t at) noexcept {
    if (const Character c = character_at(piece, at); c.bytes != 0 && ascii_sign(c)) {
        if (const size_t end = run(piece, at + 1, ascii_letter); end != at + 1) return end;
    }
    const auto begins = [](const Character& c) { return !c.ends_line() && !c.in(kLetter | kPunctuation | kSymbol); };
    const size_t word = after_head(piece, at, begins, [&](size_t from) { return run_of(piece, from, kLetter | kMark); });
    if (word != at) return word;
    if (const size_t end = after_space_sign(piece, at, kPunctuation | kSymbol); end != at) return line_ends(piece, end);
    return spaces_and_lines(piece, at);
}

size_t chinese_japanese(std::string_view piece, size_t at) noexcept {
    return run(piece, at, [](const Character& c) { return in_range(c, 0x4e00, 0x9fa5) || in_range(c, 0x3040, 0x30ff); });
}

size_t chinese_korean(std::string_view piece, size_t at) noexcept {
    return run(piece, at, [](const Character& c) { return in_range(c, 0x800, 0x9fa5) || in_range(c, 0xac00, 0xd7ff); });
}

size_t deepseek_llm_letters(std::string_view piece, size_t at) noexcept {
    return after_head(
        piece, at, [](const Character& c) { return c.in(kSpace); },
        [&](size_t from) { return run(piece, from, [](const Character& c) { return has_listed_case(c.code); }); });
}

size_t deepseek_llm_signs(std::string_view piece, size_t at) noexcept {
    const auto sign = [](const Character& c) {
        return in_range(c, '!', '/') || in_range(c, ':', '~') || in_range(c, 0xff01, 0xff0f) || in_range(c, 0xff1a, 0xff5e) ||
               in_range(c, 0x2018, 0x201f) || in_range(c, 0x3000, 0x3002);
    };
    return after_head(piece, at, [](const Character& c) { return c.in(kSpace); }, [&](size_t from) { return run(piece, from, sign); });
}

size_t spaced_letters(std::string_view piece, size_t at) noexcept { return after_space(piece, at, kLetter); }
size_t spaced_punctuation(std::string_view piece, size_t at) noexcept { return after_space(piece, at, kPunctuation); }

size_t signs(std::string_view piece, size_t at) noexcept {
    return run(piece, at, [](const Character& c) { return any_of_signs(c, U"$+<=>^~|"); });
}

size_t falcon_signs(std::string_view piece, size_t at) noexcept {
    return run(piece, at, [](const Character& c) { return any_of_signs(c, U"$+<=>^~|`"); });
}

size_t bloom(std::string_view piece, size_t at) noexcept {
    static constexpr std::u32string_view excluded = U"(|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)";
    const auto wanted = [](const Character& c) { return !c.in(kSpace) && excluded.find(c.code) == std::u32string_view::npos; };
    return after_head(piece, at, is_space_sign, [&](size_t from) { return run(piece, from, wanted); });
}

}  // namespace dca::patterns
