#include "core/tokenizer/unigram/character_map.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/tokenizer/unicode/clusters.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

constexpr size_t kLongestReplacement = 256;  // bytes; NFKC's longest is 33
constexpr size_t kLongestCluster = 5;        // bytes of what is replaced as a whole (the tokenizers package)

constexpr uint32_t label_of(uint32_t unit) noexcept { return unit & 0x800000ff; }  // bit 31 marks a value, which has no label
constexpr bool has_value(uint32_t unit) noexcept { return (unit & 0x100) != 0; }
constexpr uint32_t value_of(uint32_t unit) noexcept { return unit & 0x7fffffff; }

}  // namespace

CharacterMap::CharacterMap(std::string bytes, const std::string& where) {
    uint32_t size = 0;
    if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
    if (bytes.size() < 8 || size == 0 || size % 4 != 0 || size > bytes.size() - 4)
        fail(DCA_ERROR_FORMAT, where, "its trie has no size that fits");
    units_.resize(size / 4);
    std::memcpy(units_.data(), bytes.data() + 4, size);
    texts_ = bytes.substr(4 + size);
    check(where);
}

uint32_t CharacterMap::children_of(uint32_t place) const noexcept {
    const uint32_t unit = units_[place];
    return place ^ ((unit >> 10) << ((unit & 0x200) >> 6));
}

void CharacterMap::check(const std::string& where) const {
    if (first_outside_utf8(texts_) != texts_.size()) fail(DCA_ERROR_FORMAT, where, "its texts are not UTF-8");
    std::vector<bool> seen(units_.size(), false);
    std::vector<uint32_t> places{0};
    while (!places.empty()) {
        const uint32_t place = places.back();
        places.pop_back();
        const uint32_t inner = children_of(place);
        if ((inner | 0xff) >= units_.size()) fail(DCA_ERROR_FORMAT, where, "its trie points outside itself");
        if (place != 0 && has_value(units_[place])) {
            const size_t start = value_of(units_[inner]);
            if (start > texts_.size() || (start < texts_.size() && (static_cast<unsigned char>(texts_[start]) & 0xc0) == 0x80))
                fail(DCA_ERROR_FORMAT, where, "its trie points beside its texts");
            if (std::strlen(texts_.c_str() + start) > kLongestReplacement)
                fail(DCA_ERROR_FORMAT, where, "it has a replacement of more than ", kLongestReplacement, " bytes");
        }
        for (uint32_t label = 1; label < 256; ++label) {
            const uint32_t child = inner ^ label;
            if (label_of(units_[child]) != label || seen[child]) continue;
            seen[child] = true;
            places.push_back(child);
        }
    }
}

const char* CharacterMap::find(std::string_view text) const noexcept {
    uint32_t place = children_of(0);
    for (const char c : text) {
        const uint32_t label = static_cast<unsigned char>(c);
        if (label == 0) return nullptr;
        place ^= label;
        if (label_of(units_[place]) != label) return nullptr;
        const bool found = has_value(units_[place]);
        place = children_of(place);
        if (found) return texts_.c_str() + value_of(units_[place]);
    }
    return nullptr;
}

std::string CharacterMap::replaced(std::string_view text) const {
    if (units_.empty()) return std::string(text);
    std::string out;
    for (size_t at = 0; at < text.size();) {
        const size_t end = cluster_end(text, at);
        if (end - at <= kLongestCluster) {
            if (const char* replacement = find(text.substr(at, end - at))) {
                out += replacement;
                at = end;
                continue;
            }
        }
        while (at < end) {
            const size_t bytes = character_at(text, at).bytes;
            const char* replacement = find(text.substr(at, bytes));
            if (replacement != nullptr) {
                out += replacement;
            } else {
                out += text.substr(at, bytes);
            }
            at += bytes;
        }
    }
    return out;
}

}  // namespace dca
