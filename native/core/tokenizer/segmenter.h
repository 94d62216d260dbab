// What turns text into tokens once whole tokens have been taken out of it: one for each kind of vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/gguf/gguf.h"
#include "core/tokenizer/vocabulary.h"

namespace dca {

struct Pretokenizer;

class Segmenter {
public:
    virtual ~Segmenter() = default;

    /// Appends the tokens of a stretch of text, not empty, between whole tokens.
    /// begins: nothing comes before it. specials: its spelling may be a control token's piece.
    virtual void encode(std::string_view text, bool begins, bool specials, std::vector<int32_t>& ids) const = 0;

protected:
    Segmenter() = default;
    Segmenter(const Segmenter&) = default;
    Segmenter& operator=(const Segmenter&) = default;
};

// Each keeps a reference to the vocabulary, and throws format errors for keys that are missing or do not fit it.

/// Byte-level BPE ("gpt2"): tokenizer.ggml.merges, after cutting as tokenizer.ggml.pre says.
std::unique_ptr<Segmenter> make_byte_level(const GgufFile& file, const Vocabulary& vocabulary, const Pretokenizer& pretokenizer);

/// SentencePiece's BPE ("llama"): merges follow from the tokens' scores.
std::unique_ptr<Segmenter> make_sentencepiece(const GgufFile& file, const Vocabulary& vocabulary);

/// SentencePiece's unigram model ("t5"): the cut with the best sum of scores.
std::unique_ptr<Segmenter> make_unigram(const GgufFile& file, const Vocabulary& vocabulary);

}  // namespace dca
