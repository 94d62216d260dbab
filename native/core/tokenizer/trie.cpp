#include "core/tokenizer/trie.h"

#include <algorithm>

namespace dca {

Trie::Trie(std::vector<Spelling> spellings, Direction direction) {
    const bool forward = direction == Direction::Forward;
    const auto byte = [forward](std::string_view text, size_t depth) {
        return static_cast<unsigned char>(forward ? text[depth] : text[text.size() - 1 - depth]);
    };
    std::ranges::sort(spellings, [forward](const Spelling& a, const Spelling& b) {
        return forward ? a.text < b.text
                       : std::ranges::lexicographical_compare(
                             a.text.rbegin(), a.text.rend(), b.text.rbegin(), b.text.rend(),
                             [](char x, char y) { return static_cast<unsigned char>(x) < static_cast<unsigned char>(y); });
    });
    // Each node stands for the spellings from `begin` to `end`, which share what leads to it.
    struct Range {
        size_t begin, end;
    };
    std::vector<Range> ranges{{0, spellings.size()}};
    nodes_.emplace_back();
    for (uint32_t node = 0; node < nodes_.size(); ++node) {
        auto [begin, end] = ranges[node];
        const uint32_t depth = nodes_[node].depth;
        nodes_[node].first_child = static_cast<uint32_t>(nodes_.size());
        if (begin < end && spellings[begin].text.size() == depth) nodes_[node].token = spellings[begin++].token;
        while (begin < end) {
            const unsigned char label = byte(spellings[begin].text, depth);
            size_t next = begin;
            while (next < end && byte(spellings[next].text, depth) == label) ++next;
            nodes_.push_back({.depth = depth + 1, .label = label});
            ranges.push_back({begin, next});
            begin = next;
        }
    }
    nodes_.push_back({.first_child = static_cast<uint32_t>(nodes_.size())});
    for (uint32_t next = nodes_[0].first_child; next < children_end(0); ++next) from_root_[nodes_[next].label] = next;
}

uint32_t Trie::child(uint32_t node, unsigned char label) const noexcept {
    if (node == 0) return from_root_[label];
    const auto begin = nodes_.begin() + nodes_[node].first_child, end = nodes_.begin() + children_end(node);
    const auto found = std::ranges::lower_bound(begin, end, label, {}, &Node::label);
    return found != end && found->label == label ? static_cast<uint32_t>(found - nodes_.begin()) : 0;
}

}  // namespace dca
