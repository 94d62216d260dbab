// What the patterns of pretokenizers match, written out by hand: each looks at a character a fixed number of times, so that a
// text is cut in time that is linear in its length.
//
// A pattern is asked where a match that begins at byte `at` of a piece ends; it answers `at` where there is none. Pieces are
// UTF-8, and nothing outside a piece is seen: its end is the end of all text. Alternatives are tried in their order, and
// repetitions take as much as they can, as in the regular expression beside each.
#pragma once

#include <cstddef>
#include <string_view>

namespace dca {

using Pattern = size_t (*)(std::string_view piece, size_t at);

namespace patterns {

size_t digit(std::string_view piece, size_t at) noexcept;               // \p{N}
size_t digits(std::string_view piece, size_t at) noexcept;              // \p{N}+
size_t three_digits(std::string_view piece, size_t at) noexcept;        // \p{N}{1,3}
size_t three_ascii_digits(std::string_view piece, size_t at) noexcept;  // [0-9][0-9][0-9]
size_t line_end(std::string_view piece, size_t at) noexcept;            // [\r\n]
size_t trailing_space(std::string_view piece, size_t at) noexcept;      // (?<!\s)\s+$

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2(std::string_view piece, size_t at) noexcept;

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t words_three_digits(std::string_view piece, size_t at) noexcept;
// the same with \p{N}
size_t words_one_digit(std::string_view piece, size_t at) noexcept;
// the same with \p{N}, and [\p{L}\p{M}] for the \p{L} of a word and of what is no other sign
size_t words_with_marks(std::string_view piece, size_t at) noexcept;

// With U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], L = [\p{Ll}\p{Lm}\p{Lo}\p{M}] and c = (?i:'s|'t|'re|'ve|'m|'ll|'d):
// [^\r\n\p{L}\p{N}]?U*L+c?|[^\r\n\p{L}\p{N}]?U+L*c?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t cased_words(std::string_view piece, size_t at) noexcept;
// the same without c, and with \p{N}
size_t cased_words_one_digit(std::string_view piece, size_t at) noexcept;

// [!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t deepseek_words(std::string_view piece, size_t at) noexcept;
size_t chinese_japanese(std::string_view piece, size_t at) noexcept;  // [一-龥぀-ゟ゠-ヿ]+

size_t deepseek_llm_letters(std::string_view piece, size_t at) noexcept;  // \s?[letters that have a case]+
size_t deepseek_llm_signs(std::string_view piece, size_t at) noexcept;    // \s?[!-/:-~！-／：-～‘-‟　-。]+
size_t chinese_korean(std::string_view piece, size_t at) noexcept;        // [一-龥ࠀ-一가-퟿]+
size_t spaced_letters(std::string_view piece, size_t at) noexcept;        // \s?\p{L}+
size_t spaced_punctuation(std::string_view piece, size_t at) noexcept;    // \s?\p{P}+

size_t signs(std::string_view piece, size_t at) noexcept;         // [\p{P}\$\+<=>\^~\|]+
size_t falcon_signs(std::string_view piece, size_t at) noexcept;  // [\p{P}\$\+<=>\^~\|`]+
size_t bloom(std::string_view piece, size_t at) noexcept;         // ?[^(\s|.,!?…。，、।۔،)]+ with a space before the ?

}  // namespace patterns
}  // namespace dca
