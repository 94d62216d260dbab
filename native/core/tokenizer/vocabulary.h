// The tokens of a file: their texts, types and scores, checked, and found by text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf/gguf.h"

namespace dca {

/// Values of tokenizer.ggml.token_type.
enum class TokenType : int64_t { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };

class Vocabulary {
public:
    /// Of equal texts one token has the text: the first in a BPE vocabulary, the last in a unigram one, as in the Python
    /// tokenizer. In BPE the others have none.
    enum class Repeats { First, Last };

    /// Copies what it needs. Throws a format error for keys that are missing, contradict each other or are too large.
    Vocabulary(const GgufFile& file, Repeats repeats);

    size_t size() const noexcept { return spans_.size(); }
    bool has(int64_t id) const noexcept {
        return id >= 0 && static_cast<uint64_t>(id) < size() && !(without_text_[static_cast<size_t>(id)]);
    }
    /// "" for ids that have none.
    std::string_view text(int64_t id) const noexcept { return has(id) ? spelled(static_cast<size_t>(id)) : std::string_view(); }
    TokenType type(size_t id) const noexcept { return types_[id]; }

    /// The token with this text, -1 if there is none. As many comparisons as the logarithm of their number.
    int32_t find(std::string_view text) const noexcept;

    /// The first token of a type, -1 if there is none.
    int32_t first_of(TokenType type) const noexcept;

    /// Whether its text, not empty, is that of a control token or of the unknown one; by id.
    bool special(size_t id) const noexcept { return special_[id]; }
    /// Whether its text, not empty, is a user-defined token's and no special one's.
    bool defined(size_t id) const noexcept { return defined_[id]; }
    /// The token that has the text of this one.
    int32_t holder(size_t id) const noexcept { return find(spelled(id)); }

private:
    struct Span {
        size_t begin, bytes;
    };
    std::string_view spelled(size_t id) const noexcept { return std::string_view(texts_).substr(spans_[id].begin, spans_[id].bytes); }
    void copy(const GgufFile& file);
    void sort();

    Repeats repeats_;
    std::string texts_;  // one behind the other
    std::vector<Span> spans_;
    std::vector<TokenType> types_;
    std::vector<int32_t> sorted_;   // ids by text, equal ones by id
    std::vector<uint64_t> starts_;  // the first eight bytes of each, as a number that sorts like them
    std::vector<bool> without_text_, special_, defined_;
};

/// The scores of all tokens, finite. Throws a format error.
std::vector<double> token_scores(const GgufFile& file, size_t count);

}  // namespace dca
