// Tokens that a text's spelling stands for as a whole, before anything is cut: control tokens and user-defined ones.
//
// At each place the longest of them counts, and the leftmost place first. Whatever the tokens and the text, finding them takes
// one step of an automaton a byte (Aho and Corasick, 1975), run from the text's end over the tokens' reversed spellings: the
// state at a byte then names the longest token that begins there.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tokenizer/trie.h"

namespace dca {

class WholeTokens {
public:
    struct Match {
        size_t begin, end;  // bytes
        int32_t token;
    };

    WholeTokens() = default;
    /// The spellings are not empty, and no two are equal.
    explicit WholeTokens(std::vector<Trie::Spelling> spellings);

    /// The matches in a text, in their order.
    std::vector<Match> find(std::string_view text) const;

private:
    uint32_t step(uint32_t node, unsigned char label) const noexcept;

    Trie suffixes_;
    std::vector<uint32_t> fallback_;  // by node: the longest other suffix that this one, read backwards, ends in
    std::vector<uint32_t> longest_;   // by node: that of the longest token that a text so read begins with; 0: none
};

}  // namespace dca
