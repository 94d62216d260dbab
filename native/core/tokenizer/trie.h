// Spellings of tokens as a tree of bytes: what begins with what is found a byte at a time.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace dca {

class Trie {
public:
    enum class Direction { Forward, Backward };  // Backward: from each spelling's last byte
    struct Spelling {
        std::string_view text;  // used while the tree is made
        int32_t token;
    };
    /// Nodes lie by depth, so that a node's children are neighbours; node 0 is the root.
    struct Node {
        uint32_t first_child = 0;  // the children end where the next node's begin
        int32_t token = -1;        // whose spelling ends here
        uint32_t depth = 0;        // bytes
        unsigned char label = 0;
    };

    Trie() = default;
    /// No two of the spellings are equal.
    Trie(std::vector<Spelling> spellings, Direction direction);

    uint32_t size() const noexcept { return nodes_.empty() ? 0 : static_cast<uint32_t>(nodes_.size()) - 1; }
    const Node& operator[](uint32_t node) const noexcept { return nodes_[node]; }
    uint32_t children_end(uint32_t node) const noexcept { return nodes_[node + 1].first_child; }
    /// The child by a byte; 0 where there is none.
    uint32_t child(uint32_t node, unsigned char label) const noexcept;

private:
    std::vector<Node> nodes_;  // and one more, where the last one's children end
    std::array<uint32_t, 256> from_root_{};
};

}  // namespace dca
