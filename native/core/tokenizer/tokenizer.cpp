#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/tokenizer/keys.h"
#include "core/tokenizer/pretokenizer/pretokenizer.h"
#include "core/tokenizer/text_stream.h"
#include "core/tokenizer/unicode/unicode.h"

namespace dca {

namespace {

// Texts that end a turn or a text in the models in use. Files name one end token, often not the one that ends a turn; a
// control token with such a text ends generation too.
constexpr std::string_view kEndTexts[] = {"<|endoftext|>",
                                          "<|end_of_text|>",
                                          "<|im_end|>",
                                          "<|eot_id|>",
                                          "<|eom_id|>",
                                          "<|end|>",
                                          "<|return|>",
                                          "<|call|>",
                                          "<end_of_turn>",
                                          "<end_of_utterance>",
                                          "<\uff5cend\u2581of\u2581sentence\uff5c>",
                                          "[EOS]",
                                          "[EOT]",
                                          "<EOT>",
                                          "</s>"};

TokenizerKind kind_of(const GgufFile& file) {
    if (file.find(keys::kModel) == nullptr) {
        const bool json = file.find("tokenizer.huggingface.json") != nullptr;
        fail(DCA_ERROR_UNSUPPORTED, file.path(), ": the file has no tokenizer (", keys::kModel, ")",
             json ? "; only Python reads its tokenizer.huggingface.json" : "");
    }
    const auto name = file.get_string(keys::kModel);
    if (name == "gpt2") return TokenizerKind::ByteLevel;
    if (name == "llama") return TokenizerKind::SentencePiece;
    if (name == "t5") return TokenizerKind::Unigram;
    fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys::kModel, " is '", *name,
         "'; this version builds the kinds 'gpt2', 'llama' and 't5'");
}

const Pretokenizer& pretokenizer_of(const GgufFile& file) {
    const std::string_view name = file.get_string(keys::kPre).value_or("default");
    const Pretokenizer* found = find_pretokenizer(name);
    if (found == nullptr) fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys::kPre, " is '", name, "', which this version does not know");
    return *found;
}

}  // namespace

Tokenizer::Tokenizer(const GgufFile& file)
    : kind_(kind_of(file)),
      kind_name_(*file.get_string(keys::kModel)),
      vocabulary_(file, kind_ == TokenizerKind::Unigram ? Vocabulary::Repeats::Last : Vocabulary::Repeats::First) {
    if (kind_ == TokenizerKind::ByteLevel) {
        const Pretokenizer& pretokenizer = pretokenizer_of(file);
        segmenter_ = make_byte_level(file, vocabulary_, pretokenizer);
        adds_bos_ = pretokenizer.add_bos;
    } else {
        segmenter_ = kind_ == TokenizerKind::SentencePiece ? make_sentencepiece(file, vocabulary_) : make_unigram(file, vocabulary_);
        strips_first_space_ = file.get_bool(keys::kSpacePrefix).value_or(true);
        adds_bos_ = true;
    }
    adds_bos_ = file.get_bool(keys::kAddBos).value_or(adds_bos_);
    adds_eos_ = file.get_bool(keys::kAddEos).value_or(false);
    bos_ = named_id(file, "bos");
    eos_ = named_id(file, "eos");

    std::vector<Trie::Spelling> whole, defined;
    for (size_t id = 0; id < vocabulary_.size(); ++id) {
        const auto token = static_cast<int32_t>(id);
        if (vocabulary_.holder(id) != token) continue;
        if (vocabulary_.special(id) || vocabulary_.defined(id)) whole.push_back({vocabulary_.text(token), token});
        if (vocabulary_.defined(id) && kind_ == TokenizerKind::Unigram) defined.push_back({vocabulary_.text(token), token});
    }
    whole_ = WholeTokens(std::move(whole));
    defined_ = WholeTokens(std::move(defined));
    find_end_ids(file);
}

int32_t Tokenizer::named_id(const GgufFile& file, const char* name) const {
    const auto id = keys::integer(file, "tokenizer.ggml." + std::string(name) + "_token_id").value_or(-1);
    return vocabulary_.has(id) ? static_cast<int32_t>(id) : -1;
}

void Tokenizer::find_end_ids(const GgufFile& file) {
    for (const char* name : {"eos", "eot", "eom"}) end_ids_.push_back(named_id(file, name));
    for (const int64_t id : keys::integers(file, keys::kEndIds).value_or(std::vector<int64_t>{}))
        end_ids_.push_back(vocabulary_.has(id) ? static_cast<int32_t>(id) : -1);
    for (const std::string_view text : kEndTexts) {
        const int32_t id = vocabulary_.find(text);
        if (id >= 0 && vocabulary_.special(static_cast<size_t>(id))) end_ids_.push_back(id);
    }
    std::erase(end_ids_, -1);
    std::ranges::sort(end_ids_);
    const auto repeated = std::ranges::unique(end_ids_);
    end_ids_.erase(repeated.begin(), repeated.end());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
    if (const size_t at = first_outside_utf8(text); at != text.size())
        fail(DCA_ERROR_ARGUMENT, "the text is not UTF-8: byte ", static_cast<unsigned>(static_cast<unsigned char>(text[at])), " at index ",
             at);
    std::vector<int32_t> ids;
    const auto add_text = [&](size_t begin, size_t end) {
        if (begin != end) segmenter_->encode(text.substr(begin, end - begin), begin == 0, options.specials, ids);
    };
    if ((options.begins || options.begins_once) && adds_bos()) ids.push_back(bos_);
    const size_t before = ids.size();
    size_t done = 0;
    const bool without_specials = kind_ == TokenizerKind::Unigram && !options.specials;
    for (const WholeTokens::Match& match : (without_specials ? defined_ : whole_).find(text)) {
        if (!options.specials && vocabulary_.special(static_cast<size_t>(match.token))) continue;
        add_text(done, match.begin);
        ids.push_back(match.token);
        done = match.end;
    }
    add_text(done, text.size());
    if (options.begins_once && before != 0 && ids.size() > before && ids[before] == bos_) ids.erase(ids.begin());
    if (options.ends && adds_eos()) ids.push_back(eos_);
    return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_specials) const {
    TextStream stream(*this, {}, skip_specials);
    std::string text;
    for (const int32_t id : ids) text += stream.push(id);
    return text += stream.flush();
}

}  // namespace dca
