#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/tokenizer/byte_characters.h"
#include "core/tokenizer/keys.h"
#include "core/tokenizer/merging.h"
#include "core/tokenizer/pretokenizer/pretokenizer.h"
#include "core/tokenizer/segmenter.h"

namespace dca {

namespace {

/// What joins two tokens; merges earlier in the file's list go first.
struct Merge {
    uint32_t rank;
    int32_t result;
};

/// The file's merges by their two tokens: those of one left token lie together, ordered by the right one.
class MergeTable {
public:
    MergeTable(const GgufFile& file, const Vocabulary& vocabulary) : first_(vocabulary.size() + 1, 0) {
        const auto listed = keys::strings(file, keys::kMerges);
        if (!listed)
            fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kMerges, " must be an array of strings, each 'left right'; it is missing");
        std::string joined;
        entries_.reserve(listed->size());
        for (const std::string_view merge : *listed) {
            const size_t space = merge.find(' ');
            if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
                fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kMerges, " must be an array of strings, each 'left right'; number ",
                     entries_.size(), " is '", merge, "'");
            }
            const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
            (joined = left) += right;
            const Entry entry{vocabulary.find(left), vocabulary.find(right), static_cast<uint32_t>(entries_.size()),
                              vocabulary.find(joined)};
            if (entry.left < 0 || entry.right < 0 || entry.result < 0) {
                fail(DCA_ERROR_FORMAT, file.path(), ": ", keys::kMerges, " does not fit ", keys::kTokens, ": number ", entries_.size(),
                     ", '", merge, "', has a side or a result that is no token");
            }
            entries_.push_back(entry);
        }
        // Of merges of the same pair the last one counts: it comes first here.
        std::ranges::sort(entries_, [](const Entry& a, const Entry& b) {
            if (a.left != b.left) return a.left < b.left;
            return a.right != b.right ? a.right < b.right : a.rank > b.rank;
        });
        for (const Entry& entry : entries_) ++first_[static_cast<size_t>(entry.left) + 1];
        for (size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
    }

    std::optional<Merge> find(int32_t left, int32_t right) const noexcept {
        const auto begin = entries_.begin() + first_[static_cast<size_t>(left)];
        const auto end = entries_.begin() + first_[static_cast<size_t>(left) + 1];
        const auto found = std::ranges::lower_bound(begin, end, right, {}, &Entry::right);
        if (found == end || found->right != right) return std::nullopt;
        return Merge{found->rank, found->result};
    }

private:
    struct Entry {
        int32_t left, right;
        uint32_t rank;
        int32_t result;
    };
    std::vector<Entry> entries_;
    std::vector<uint32_t> first_;  // of each left token, and the end
};

class ByteLevel final : public Segmenter {
public:
    ByteLevel(const GgufFile& file, const Vocabulary& vocabulary, const Pretokenizer& pretokenizer)
        : vocabulary_(vocabulary), pretokenizer_(pretokenizer), merges_(file, vocabulary) {
        for (unsigned byte = 0; byte < 256; ++byte) tokens_[byte] = vocabulary.find(byte_character(static_cast<uint8_t>(byte)));
    }

    void encode(std::string_view text, bool, bool, std::vector<int32_t>& ids) const override {
        std::vector<int32_t> piece_ids;
        std::string spelling;
        cut(pretokenizer_, text, [&](std::string_view piece) {
            if (pretokenizer_.ignore_merges) {
                spelling.clear();
                for (const char byte : piece) spelling += byte_character(static_cast<uint8_t>(byte));
                if (const int32_t whole = vocabulary_.find(spelling); whole >= 0) return ids.push_back(whole);
            }
            piece_ids.clear();
            for (const char byte : piece) {
                if (const int32_t token = tokens_[static_cast<uint8_t>(byte)]; token >= 0) piece_ids.push_back(token);
            }
            merge_all(
                piece_ids, [&](int32_t left, int32_t right) { return merges_.find(left, right); },
                [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
            ids.insert(ids.end(), piece_ids.begin(), piece_ids.end());
        });
    }

private:
    const Vocabulary& vocabulary_;
    const Pretokenizer& pretokenizer_;
    MergeTable merges_;
    std::array<int32_t, 256> tokens_{};  // of each byte; -1: none, and the byte is left out
};

}  // namespace

std::unique_ptr<Segmenter> make_byte_level(const GgufFile& file, const Vocabulary& vocabulary, const Pretokenizer& pretokenizer) {
    return std::make_unique<ByteLevel>(file, vocabulary, pretokenizer);
}

}  // namespace dca
