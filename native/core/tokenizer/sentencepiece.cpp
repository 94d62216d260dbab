#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/tokenizer/byte_tokens.h"
#include "core/tokenizer/keys.h"
#include "core/tokenizer/merging.h"
#include "core/tokenizer/segmenter.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

// Each step of merging looks at the texts of two tokens: the time it takes grows with the longest.
constexpr size_t kLongestPiece = 256;  // characters; sentencepiece's own default is 16

/// What joins two tokens: the token that has both texts, the one with the best score first, then by the ids.
struct Merge {
    double score;
    int32_t left, right, result;
};

bool better(const Merge& a, const Merge& b) noexcept {
    if (a.score != b.score) return a.score > b.score;
    return a.left != b.left ? a.left < b.left : a.right < b.right;
}

class SentencePiece final : public Segmenter {
public:
    SentencePiece(const GgufFile& file, const Vocabulary& vocabulary)
        : vocabulary_(vocabulary),
          scores_(token_scores(file, vocabulary.size())),
          bytes_(vocabulary),
          space_prefix_(file.get_bool(keys::kSpacePrefix).value_or(true)) {
        if (const int32_t unknown = vocabulary.first_of(TokenType::Unknown); unknown >= 0)
            unknown_ = vocabulary.holder(static_cast<size_t>(unknown));
        size_t longest = 0;
        for (size_t id = 0; id < vocabulary.size(); ++id) {
            if (mergeable(static_cast<int32_t>(id)))
                longest = std::max(longest, count_characters(vocabulary.text(static_cast<int64_t>(id))));
        }
        if (longest > kLongestPiece) {
            fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, " has a token of ", longest,
                 " characters that could be merged, at most ", kLongestPiece, " are supported");
        }
    }

    void encode(std::string_view text, bool, bool, std::vector<int32_t>& ids) const override {
        std::vector<int32_t> symbols;
        bool unknown = false;  // characters that have no token, which become one unknown token
        const auto add = [&](std::string_view character) {
            if (const int32_t token = vocabulary_.find(character); token >= 0) {
                if (unknown) symbols.push_back(unknown_);
                unknown = false;
                symbols.push_back(token);
            } else if (bytes_.has_all(character)) {
                bytes_.append(character, symbols);
            } else {
                unknown = unknown_ >= 0;
            }
        };
        if (space_prefix_) add(kVisibleSpace);
        for (size_t at = 0; at < text.size();) {
            const size_t bytes = character_at(text, at).bytes;
            add(text[at] == ' ' ? kVisibleSpace : text.substr(at, bytes));
            at += bytes;
        }
        if (unknown) symbols.push_back(unknown_);
        std::string joined;
        merge_all(symbols, [&](int32_t left, int32_t right) { return merge(left, right, joined); }, better);
        ids.insert(ids.end(), symbols.begin(), symbols.end());
    }

private:
    bool mergeable(int32_t id) const noexcept {
        return !vocabulary_.text(id).empty() && vocabulary_.type(static_cast<size_t>(id)) == TokenType::Normal;
    }

    std::optional<Merge> merge(int32_t left, int32_t right, std::string& joined) const {
        if (!mergeable(left) || !mergeable(right)) return std::nullopt;
        (joined = vocabulary_.text(left)) += vocabulary_.text(right);
        const int32_t result = vocabulary_.find(joined);
        if (result < 0 || !mergeable(result)) return std::nullopt;
        return Merge{scores_[static_cast<size_t>(result)], left, right, result};
    }

    const Vocabulary& vocabulary_;
    std::vector<double> scores_;
    ByteTokens bytes_;
    int32_t unknown_ = -1;
    bool space_prefix_;
};

}  // namespace

std::unique_ptr<Segmenter> make_sentencepiece(const GgufFile& file, const Vocabulary& vocabulary) {
    return std::make_unique<SentencePiece>(file, vocabulary);
}

}  // namespace dca
