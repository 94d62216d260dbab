#include <algorithm>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/tokenizer/byte_tokens.h"
#include "core/tokenizer/unigram/character_map.h"
#include "core/tokenizer/keys.h"
#include "core/tokenizer/segmenter.h"
#include "core/tokenizer/trie.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst score (sentencepiece)

CharacterMap character_map(const GgufFile& file) {
    const auto listed = keys::integers(file, keys::kCharacterMap);
    if (!listed || listed->empty()) return {};
    std::string bytes;
    bytes.reserve(listed->size());
    for (const int64_t byte : *listed) bytes.push_back(static_cast<char>(byte & 255));
    return {std::move(bytes), file.path() + ": " + std::string(keys::kCharacterMap) + ": "};
}

class Unigram final : public Segmenter {
public:
    Unigram(const GgufFile& file, const Vocabulary& vocabulary)
        : vocabulary_(vocabulary),
          scores_(token_scores(file, vocabulary.size())),
          bytes_(vocabulary),
          ordinary_bytes_(vocabulary, false),
          falls_back_(vocabulary.first_of(TokenType::Byte) >= 0),
          unknown_(vocabulary.first_of(TokenType::Unknown)),
          map_(character_map(file)),
          space_prefix_(file.get_bool(keys::kSpacePrefix).value_or(true)),
          removes_extra_spaces_(file.get_bool(keys::kExtraSpaces).value_or(false)) {
        if (vocabulary.size() == 0) fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, " is empty");
        worst_ = *std::ranges::min_element(scores_) - kUnknownPenalty;
        std::vector<Trie::Spelling> spellings;
        for (size_t id = 0; id < vocabulary.size(); ++id) {
            const int32_t holder = vocabulary.holder(id);
            if (holder == static_cast<int32_t>(id)) spellings.push_back({vocabulary.text(holder), holder});
        }
        pieces_ = Trie(std::move(spellings), Trie::Direction::Forward);
    }

    void encode(std::string_view text, bool begins, bool specials, std::vector<int32_t>& ids) const override {
        const std::string normalized = normalize(text, begins);
        const std::vector<Best> best = best_cuts(normalized, specials);
        // From the end: neighbours that are unknown become one piece.
        std::vector<std::pair<size_t, size_t>> cuts;
        bool before_unknown = false;
        for (size_t end = normalized.size(); end != 0; end = best[end].begin) {
            const bool unknown = best[end].id == unknown_;
            if (unknown && before_unknown) {
                cuts.back().first = best[end].begin;
            } else {
                cuts.emplace_back(best[end].begin, end);
            }
            before_unknown = unknown;
        }
        const ByteTokens& bytes = specials ? bytes_ : ordinary_bytes_;
        for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
            const std::string_view piece = std::string_view(normalized).substr(cut->first, cut->second - cut->first);
            const int32_t id = vocabulary_.find(piece);
            if (id >= 0 && takes(id, specials)) {
                ids.push_back(id);
            } else if (falls_back_ && bytes.has_all(piece)) {
                bytes.append(piece, ids);
            } else {
                ids.push_back(unknown_);
            }
        }
    }

private:
    /// The best cut of a text up to some byte.
    struct Best {
        double score = 0.0;
        size_t begin = SIZE_MAX;  // of the last piece; SIZE_MAX: nothing ends here
        int32_t id = -1;
    };

    /// Control tokens are pieces too, often with the best score of all: where their spelling is text, they are none.
    bool takes(int32_t id, bool specials) const noexcept { return specials || !vocabulary_.special(static_cast<size_t>(id)); }

    std::vector<Best> best_cuts(std::string_view text, bool specials) const {
        std::vector<Best> best(text.size() + 1);
        const auto offer = [&](size_t end, double score, size_t begin, int32_t id) {
            if (best[end].begin != SIZE_MAX && score <= best[end].score) return;
            if (id < 0)
                fail(DCA_ERROR_FORMAT,
                     "the text cannot be tokenized: it has a character without a piece, and the vocabulary no unknown token");
            best[end] = {score, begin, id};
        };
        for (size_t at = 0; at < text.size();) {
            const size_t bytes = character_at(text, at).bytes;
            const double so_far = best[at].score;
            bool single = false;  // a piece of this one character
            uint32_t node = 0;
            for (size_t end = at; end < text.size();) {
                node = pieces_.child(node, static_cast<unsigned char>(text[end++]));
                if (node == 0) break;
                const int32_t id = pieces_[node].token;
                if (id < 0 || !takes(id, specials)) continue;
                offer(end, scores_[static_cast<size_t>(id)] + so_far, at, id);
                single |= end - at == bytes;
            }
            if (!single) offer(at + bytes, worst_ + so_far, at, unknown_);
            at += bytes;
        }
        return best;
    }

    std::string normalize(std::string_view text, bool begins) const {
        std::string mapped = map_.replaced(text);
        std::string_view kept = mapped;
        if (removes_extra_spaces_) kept = stripped(kept);
        std::string out;
        bool after_space = false;
        for (const char c : kept) {
            const bool space = c == ' ';
            if (space && after_space && removes_extra_spaces_) continue;
            after_space = space;
            if (space) {
                out += kVisibleSpace;
            } else {
                out.push_back(c);
            }
        }
        if (space_prefix_ && begins && !out.empty() && !out.starts_with(kVisibleSpace)) out.insert(0, kVisibleSpace);
        return out;
    }

    std::string_view stripped(std::string_view text) const noexcept {
        while (!text.empty()) {
            const size_t last = character_before(text, text.size());
            if (!character_at(text, last).in(kSpace)) break;
            text = text.substr(0, last);
        }
        while (!space_prefix_ && character_at(text, 0).in(kSpace)) text.remove_prefix(character_at(text, 0).bytes);
        return text;
    }

    const Vocabulary& vocabulary_;
    std::vector<double> scores_;
    ByteTokens bytes_, ordinary_bytes_;
    bool falls_back_;
    int32_t unknown_;
    CharacterMap map_;
    bool space_prefix_, removes_extra_spaces_;
    double worst_ = 0.0;
    Trie pieces_;
};

}  // namespace

std::unique_ptr<Segmenter> make_unigram(const GgufFile& file, const Vocabulary& vocabulary) {
    return std::make_unique<Unigram>(file, vocabulary);
}

}  // namespace dca
