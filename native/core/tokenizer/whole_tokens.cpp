#include "core/tokenizer/whole_tokens.h"

#include <algorithm>

namespace dca {

WholeTokens::WholeTokens(std::vector<Trie::Spelling> spellings)
    : suffixes_(std::move(spellings), Trie::Direction::Backward), fallback_(suffixes_.size(), 0), longest_(suffixes_.size(), 0) {
    for (uint32_t node = 0; node < suffixes_.size(); ++node) {
        longest_[node] = suffixes_[node].token >= 0 ? node : longest_[fallback_[node]];
        for (uint32_t next = suffixes_[node].first_child; next < suffixes_.children_end(node); ++next)
            fallback_[next] = node == 0 ? 0 : step(fallback_[node], suffixes_[next].label);
    }
}

uint32_t WholeTokens::step(uint32_t node, unsigned char label) const noexcept {
    for (;;) {
        if (const uint32_t next = suffixes_.child(node, label); next != 0 || node == 0) return next;
        node = fallback_[node];
    }
}

std::vector<WholeTokens::Match> WholeTokens::find(std::string_view text) const {
    std::vector<Match> matches;  // first the longest at each place that has one, from the text's end
    if (suffixes_.size() <= 1) return matches;
    uint32_t node = 0;
    for (size_t at = text.size(); at-- > 0;) {
        node = step(node, static_cast<unsigned char>(text[at]));
        if (const uint32_t longest = longest_[node]; longest != 0)
            matches.push_back({at, at + suffixes_[longest].depth, suffixes_[longest].token});
    }
    std::ranges::reverse(matches);
    size_t end = 0, kept = 0;
    for (const Match match : matches) {
        if (match.begin < end) continue;
        end = match.end;
        matches[kept++] = match;
    }
    matches.resize(kept);
    return matches;
}

}  // namespace dca
