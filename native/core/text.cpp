#include "core/text.h"

#include <algorithm>

namespace dca {

namespace {

bool continues(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

/// What a terminal acts on rather than shows.
bool commands(uint32_t code) noexcept {
    const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const bool line = code == 0x2028 || code == 0x2029;
    const bool direction = (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0x200e || code == 0x200f;
    return control || line || direction;
}

void append_escaped(std::string& out, std::string_view text) {
    constexpr char digits[] = "0123456789abcdef";
    while (!text.empty()) {
        uint32_t code = 0;
        const size_t count = character_bytes(text, code);
        if (count != 0 && !commands(code)) {
            out += text.substr(0, count);
        } else {
            for (const char byte : text.substr(0, std::max<size_t>(count, 1)))
                (out += "\\x").append({digits[static_cast<unsigned char>(byte) >> 4], digits[byte & 15]});
        }
        text.remove_prefix(std::max<size_t>(count, 1));
    }
}

}  // namespace

size_t character_bytes(std::string_view text, uint32_t& code) noexcept {
    const auto first = static_cast<unsigned char>(text[0]);
    const size_t count = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (count == 0 || count > text.size()) return 0;
    code = count == 1 ? first : first & (0x7fu >> count);
    for (size_t i = 1; i < count; ++i) {
        if (!continues(text[i])) return 0;
        code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
    }
    constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};  // longer forms of a character are none
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    return code < least[count] || surrogate || code > 0x10ffff ? 0 : count;
}

std::string printable(std::string_view text, size_t most) {
    std::string out;
    if (text.size() <= most) {
        append_escaped(out, text);
        return out;
    }
    size_t head = most / 2, tail = text.size() - most / 2;
    while (head > most / 2 - 3 && continues(text[head])) --head;  // cut between characters
    while (tail < text.size() - most / 2 + 3 && continues(text[tail])) ++tail;
    append_escaped(out, text.substr(0, head));
    out += " [" + std::to_string(tail - head) + " bytes more] ";
    append_escaped(out, text.substr(tail));
    return out;
}

}  // namespace dca
