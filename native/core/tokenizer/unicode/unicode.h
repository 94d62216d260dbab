// Characters of UTF-8 text and the classes that pretokenizers' patterns name (unicode_table.h says of which Unicode).
#pragma once

#include <cstdint>
#include <string_view>

namespace dca {

/// What a character is, one of these.
enum class CharacterClass : uint8_t { Other, Space, Upper, Lower, Title, Modifier, Letter, Mark, Number, Punctuation, Symbol };

/// A set of classes: bit c for class c.
using ClassSet = uint32_t;
constexpr ClassSet set_of(CharacterClass one) noexcept { return ClassSet{1} << static_cast<unsigned>(one); }

constexpr ClassSet kSpace = set_of(CharacterClass::Space);  // \s
constexpr ClassSet kNumber = set_of(CharacterClass::Number);
constexpr ClassSet kMark = set_of(CharacterClass::Mark);
constexpr ClassSet kPunctuation = set_of(CharacterClass::Punctuation);
constexpr ClassSet kSymbol = set_of(CharacterClass::Symbol);
constexpr ClassSet kUpper = set_of(CharacterClass::Upper);
constexpr ClassSet kLower = set_of(CharacterClass::Lower);
constexpr ClassSet kTitle = set_of(CharacterClass::Title);
constexpr ClassSet kCaseless = set_of(CharacterClass::Modifier) | set_of(CharacterClass::Letter);  // \p{Lm}\p{Lo}
constexpr ClassSet kLetter = kUpper | kLower | kTitle | kCaseless;                                 // \p{L}

CharacterClass class_of(char32_t code) noexcept;

/// A character in a text; 0 bytes long at the text's end.
struct Character {
    char32_t code = 0;
    uint32_t bytes = 0;
    ClassSet set = 0;

    bool in(ClassSet wanted) const noexcept { return (set & wanted) != 0; }
    bool ends_line() const noexcept { return bytes != 0 && (code == '\r' || code == '\n'); }
};

/// The character at a byte of a text that is UTF-8 from there on.
Character character_at(std::string_view text, size_t at) noexcept;

/// Where the character begins that ends before byte `at` (at least 1).
size_t character_before(std::string_view text, size_t at) noexcept;

/// The first byte of `text` that belongs to no UTF-8 character; its size where all do.
size_t first_outside_utf8(std::string_view text) noexcept;

/// Characters of a text that is UTF-8.
size_t count_characters(std::string_view text) noexcept;

}  // namespace dca
