// SentencePiece's way to write what has no piece: a visible space, and a token <0xNN> for each byte.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/tokenizer/vocabulary.h"

namespace dca {

inline constexpr std::string_view kVisibleSpace = "\u2581";

/// The byte that a token's text <0xNN> stands for.
inline std::optional<uint8_t> byte_of_token(std::string_view text) noexcept {
    const auto digit = [](char c) -> int {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'A' && c <= 'F') return c - 'A' + 10;
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    };
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
    const int high = digit(text[3]), low = digit(text[4]);
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<uint8_t>(high << 4 | low);
}

/// The tokens of bytes that a vocabulary has, in capital digits.
class ByteTokens {
public:
    /// specials: a control token may be one of them.
    explicit ByteTokens(const Vocabulary& vocabulary, bool specials = true) {
        constexpr char digits[] = "0123456789ABCDEF";
        for (size_t byte = 0; byte < tokens_.size(); ++byte) {
            const char text[] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
            const int32_t token = vocabulary.find({text, sizeof text});
            tokens_[byte] = token < 0 || specials || !vocabulary.special(static_cast<size_t>(token)) ? token : -1;
        }
    }

    bool has_all(std::string_view bytes) const noexcept {
        return std::ranges::all_of(bytes, [&](char byte) { return tokens_[static_cast<uint8_t>(byte)] >= 0; });
    }
    void append(std::string_view bytes, std::vector<int32_t>& ids) const {
        for (const char byte : bytes) ids.push_back(tokens_[static_cast<uint8_t>(byte)]);
    }

private:
    std::array<int32_t, 256> tokens_{};
};

}  // namespace dca
