#include "core/tokenizer/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/tokenizer/keys.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

// The limits of the Python tokenizer, in characters.
constexpr size_t kLongestToken = 4096;        // the longest tokens in use are lines of a few hundred signs
constexpr size_t kMostText = 32'000'000;      // of all tokens together; as many as 256,000 tokens of 125
constexpr size_t kMostTokens = 1ull << 24;    // as many ids as it takes
constexpr size_t kMostWhole = 100'000;        // tokens that are matched as a whole,
constexpr size_t kMostWholeText = 2'000'000;  // and their characters

/// The first eight bytes as a number, the first byte the heaviest.
uint64_t start_of(std::string_view text) noexcept {
    uint64_t start = 0;
    for (size_t i = 0; i < 8; ++i) start = start << 8 | (i < text.size() ? static_cast<unsigned char>(text[i]) : 0);
    return start;
}

}  // namespace

Vocabulary::Vocabulary(const GgufFile& file, Repeats repeats) : repeats_(repeats) {
    copy(file);
    const auto types = keys::integers(file, keys::kTypes);
    if (types && types->size() != size())
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTypes, " must be an array of ", size(), " integers, one a token");
    types_.assign(size(), TokenType::Normal);
    for (size_t id = 0; types && id < size(); ++id) types_[id] = static_cast<TokenType>((*types)[id]);
    sort();

    size_t whole = 0, characters = 0;
    for (size_t id = 0; id < size(); ++id) {
        const TokenType type = types_[id];
        if (spans_[id].bytes == 0 || (type != TokenType::Control && type != TokenType::Unknown && type != TokenType::UserDefined)) continue;
        ++whole;
        characters += count_characters(spelled(id));
    }
    if (whole > kMostWhole || characters > kMostWholeText) {
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTypes, ": ", whole, " added tokens of ", characters, " characters, at most ",
             kMostWhole, " and ", kMostWholeText, " are supported");
    }
}

void Vocabulary::copy(const GgufFile& file) {
    const auto tokens = keys::strings(file, keys::kTokens);
    if (!tokens) fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, " must be an array of strings, it is missing");
    if (tokens->size() > kMostTokens)
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, " has ", tokens->size(), " tokens, at most ", kMostTokens,
             " are supported");
    size_t longest = 0, characters = 0, bytes = 0;
    for (const std::string_view token : *tokens) {
        const size_t length = count_characters(token);
        longest = std::max(longest, length);
        characters += length;
        bytes += token.size();
    }
    if (longest > kLongestToken || characters > kMostText) {
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, " has a token of ", longest, " characters and ", characters,
             " in all; at most ", kLongestToken, " and ", kMostText, " are supported");
    }
    texts_.reserve(bytes);
    spans_.reserve(tokens->size());
    for (const std::string_view token : *tokens) {
        if (first_outside_utf8(token) != token.size())
            fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kTokens, ": token ", spans_.size(), " is not UTF-8: ", token);
        spans_.push_back({texts_.size(), token.size()});
        texts_ += token;
    }
}

void Vocabulary::sort() {
    sorted_.resize(size());
    std::iota(sorted_.begin(), sorted_.end(), 0);
    std::vector<uint64_t> starts(size());
    for (size_t id = 0; id < size(); ++id) starts[id] = start_of(spelled(id));
    std::ranges::sort(sorted_, [&](int32_t a, int32_t b) {
        const auto x = static_cast<size_t>(a), y = static_cast<size_t>(b);
        if (starts[x] != starts[y]) return starts[x] < starts[y];
        const int order = spelled(x).compare(spelled(y));
        return order != 0 ? order < 0 : a < b;
    });
    starts_.reserve(size());
    for (const int32_t id : sorted_) starts_.push_back(starts[static_cast<size_t>(id)]);

    // Runs of equal texts: what one of them is, all are.
    without_text_.assign(size(), false);
    special_.assign(size(), false);
    defined_.assign(size(), false);
    for (size_t begin = 0, end = 0; begin < size(); begin = end) {
        const std::string_view text = spelled(static_cast<size_t>(sorted_[begin]));
        bool special = false, defined = false;
        for (end = begin; end < size() && spelled(static_cast<size_t>(sorted_[end])) == text; ++end) {
            const TokenType type = types_[static_cast<size_t>(sorted_[end])];
            special |= type == TokenType::Control || type == TokenType::Unknown;
            defined |= type == TokenType::UserDefined;
        }
        for (size_t i = begin; i < end; ++i) {
            const auto id = static_cast<size_t>(sorted_[i]);
            special_[id] = special && !text.empty();
            defined_[id] = defined && !special && !text.empty();
            without_text_[id] = repeats_ == Repeats::First && i != begin;
        }
    }
}

int32_t Vocabulary::find(std::string_view text) const noexcept {
    const uint64_t start = start_of(text);
    const auto same_start = std::ranges::equal_range(starts_, start);
    const auto first = sorted_.begin() + (same_start.begin() - starts_.begin());
    const auto last = sorted_.begin() + (same_start.end() - starts_.begin());
    const auto [begin, end] = std::ranges::equal_range(first, last, text, {}, [&](int32_t id) { return spelled(static_cast<size_t>(id)); });
    if (begin == end) return -1;
    return repeats_ == Repeats::First ? *begin : *(end - 1);
}

int32_t Vocabulary::first_of(TokenType type) const noexcept {
    const auto found = std::ranges::find(types_, type);
    return found == types_.end() ? -1 : static_cast<int32_t>(found - types_.begin());
}

std::vector<double> token_scores(const GgufFile& file, size_t count) {
    auto scores = keys::numbers(file, keys::kScores);
    if (!scores || scores->size() != count || !std::ranges::all_of(*scores, [](double score) { return std::isfinite(score); }))
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kScores, " must be an array of ", count, " finite numbers, one a token");
    return *std::move(scores);
}

}  // namespace dca
