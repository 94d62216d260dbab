// SentencePiece's map of characters (tokenizer.ggml.precompiled_charsmap): a double-array trie of prefixes and the texts that
// it leads to.
//
// Bytes 0 to 3 hold the trie's size in bytes, then come its units of 32 bits, then the texts, each ended by a zero byte. A
// unit's low byte is its label; bit 8 says that a value hangs below it; bits 10 to 31, shifted by 8 more where bit 9 is set, are
// XORed to its place to find its children.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dca {

class CharacterMap {
public:
    /// Empty: every text stays as it is.
    CharacterMap() = default;
    /// Throws a format error that begins with `where` for a map that points outside itself, or whose texts are not UTF-8 or
    /// longer than 256 bytes.
    CharacterMap(std::string bytes, const std::string& where);

    /// The text (UTF-8) with everything replaced: what a person takes for a character, if it is short, by what the shortest
    /// prefix of it leads to, else character by character, as the tokenizers package does.
    std::string replaced(std::string_view text) const;

private:
    uint32_t children_of(uint32_t place) const noexcept;
    void check(const std::string& where) const;
    /// What the shortest prefix of `text` that is in the trie leads to; null where none is.
    const char* find(std::string_view text) const noexcept;

    std::vector<uint32_t> units_;
    std::string texts_;
};

}  // namespace dca
