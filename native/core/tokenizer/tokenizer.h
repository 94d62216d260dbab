// Text to tokens and back, by the tokenizer.ggml.* keys of a file: the same ids and text as the Python tokenizer's
// (runtime/dca_runtime/text/vocabulary.py).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf/gguf.h"
#include "core/tokenizer/segmenter.h"
#include "core/tokenizer/vocabulary.h"
#include "core/tokenizer/whole_tokens.h"

namespace dca {

enum class TokenizerKind { ByteLevel, SentencePiece, Unigram };

/// What encoding puts around a text, and whether spellings of control tokens become these.
struct EncodeOptions {
    bool begins = false;       // what begins a text, where the model was trained with it
    bool begins_once = false;  // the same, unless the text spells it out itself
    bool ends = false;         // what ends one
    bool specials = false;     // otherwise they are ordinary text, as is right for text that is not trusted
};

/// Does not change once it is made, and keeps nothing of the file.
class Tokenizer {
public:
    /// Throws a format error for keys that do not fit together, an unsupported one for a kind that is not known.
    explicit Tokenizer(const GgufFile& file);
    Tokenizer(const Tokenizer&) = delete;
    Tokenizer& operator=(const Tokenizer&) = delete;

    /// Throws an argument error for a text that is not UTF-8.
    std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const;
    /// Bytes that are not UTF-8 become U+FFFD; ids without a token give nothing.
    std::string decode(std::span<const int32_t> ids, bool skip_specials) const;

    TokenizerKind kind() const noexcept { return kind_; }
    const std::string& kind_name() const noexcept { return kind_name_; }
    const Vocabulary& vocabulary() const noexcept { return vocabulary_; }
    bool strips_first_space() const noexcept { return strips_first_space_; }
    int32_t bos() const noexcept { return bos_; }  // -1: none
    int32_t eos() const noexcept { return eos_; }
    bool adds_bos() const noexcept { return adds_bos_ && bos_ >= 0; }
    bool adds_eos() const noexcept { return adds_eos_ && eos_ >= 0; }
    /// The ids after which a text or a turn is over, ascending.
    const std::vector<int32_t>& end_ids() const noexcept { return end_ids_; }

private:
    void find_end_ids(const GgufFile& file);
    int32_t named_id(const GgufFile& file, const char* name) const;

    TokenizerKind kind_;
    std::string kind_name_;
    Vocabulary vocabulary_;
    std::unique_ptr<Segmenter> segmenter_;
    WholeTokens whole_;
    WholeTokens defined_;  // of a unigram model, whose control tokens are no tokens at all where they are text
    bool strips_first_space_ = false;
    bool adds_bos_ = false, adds_eos_ = false;
    int32_t bos_ = -1, eos_ = -1;
    std::vector<int32_t> end_ids_;
};

}  // namespace dca
