// Fuzz target: tokenizers. Any vocabulary is built or refused as a damaged file; whatever was built cuts any text into tokens
// that it has, and gives whole characters back.
//
// An input is the kind, a few flags, a pretokenizer, then tokens of up to three bytes of an alphabet each with a type and a
// score, merges of two tokens, bytes of a map of characters, and a text.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/text.h"
#include "dca_text.h"
#include "fuzz/promises.h"
#include "fuzz/recipe.h"
#include "fuzz/target.h"
#include "vocabulary_file.h"

namespace {

constexpr std::array<const char*, 4> kKinds{"gpt2", "llama", "t5", "bert"};
constexpr std::array<const char*, 17> kPretokenizers{
    "default", "gpt-2",       "smollm",       "llama-bpe",      "dbrx",   "glm4",  "qwen2",  "qwen35", "tekken",
    "gpt-4o",  "deepseek-v3", "deepseek-llm", "deepseek-coder", "falcon", "bloom", "viking", "x"};
const std::array<std::string, 40> kAlphabet{"a",          "b",
                                            "A",          "B",
                                            "s",          "t",
                                            "'",          " ",
                                            "  ",         "\n",
                                            "\r",         "\t",
                                            "1",          "2",
                                            "!",          "/",
                                            ".",          "\u2581",
                                            "\u0120",     "\u010a",
                                            "e\u0301",    "\u0301",
                                            "\u4e2d",     "\uac00",
                                            "\u1161",     "\u3000",
                                            "\u00df",     "\u017f",
                                            "\U0001f600", "<0x41>",
                                            "<0xE4>",     "<0xB8>",
                                            "<0xad>",     "<s>",
                                            "<|x|>",      "\u0600",
                                            "\u00a0",     std::string(1, '\0'),
                                            "\xe4",       "\xff"};

std::string word(fuzz::Bytes& input) {
    std::string out;
    for (size_t parts = input.next() % 4; parts != 0; --parts) out += kAlphabet[input.next() % kAlphabet.size()];
    return out;
}

test::VocabularyFile vocabulary(fuzz::Bytes& input) {
    test::VocabularyFile file;
    file.model = kKinds[input.next() % kKinds.size()];
    const uint8_t flags = input.next();
    file.add_bos = flags & 1 ? flags >> 1 & 1 : -1;
    file.space_prefix = flags & 4 ? flags >> 3 & 1 : -1;
    file.remove_extra_spaces = flags >> 4 & 1;
    file.pre = kPretokenizers[input.next() % kPretokenizers.size()];
    file.bos = input.next();
    file.eos = input.next();
    const size_t count = input.next() % 64;
    if (flags & 32) {  // an alphabet that has what byte-level merges need
        for (int byte = '!'; byte <= '~'; ++byte) file.tokens.emplace_back(1, static_cast<char>(byte));
    }
    while (file.tokens.size() < count) file.tokens.push_back(word(input));
    for (size_t i = 0; i < file.tokens.size(); ++i) {
        const uint8_t byte = input.next();
        file.types.push_back(flags & 64 ? byte % 7 : 1);
        file.scores.push_back(static_cast<float>(static_cast<int8_t>(byte)) / 4.0f);
    }
    for (size_t merges = input.next() % 32; merges != 0 && !file.tokens.empty(); --merges) {
        const std::string left = file.tokens[input.below(file.tokens.size())];
        file.merges.push_back(left + " " + file.tokens[input.below(file.tokens.size())]);
    }
    if (flags & 128) file.merges.clear();
    for (size_t bytes = input.next() % 3 == 0 ? input.next() : 0; bytes != 0; --bytes) file.character_map.push_back(input.next());
    return file;
}

bool whole_characters(std::string_view text) {
    while (!text.empty()) {
        uint32_t code = 0;
        const size_t bytes = dca::character_bytes(text, code);
        if (bytes == 0) return false;
        text.remove_prefix(bytes);
    }
    return true;
}

std::string detokenized(const dca_tokenizer* tokenizer, const std::vector<int32_t>& ids, int32_t skip_special) {
    size_t bytes = 0;
    fuzz::promise(dca_detokenize(tokenizer, ids.data(), ids.size(), skip_special, nullptr, 0, &bytes) == DCA_OK, "a text's length");
    std::string text(bytes + 1, 'x');
    fuzz::promise(dca_detokenize(tokenizer, ids.data(), ids.size(), skip_special, text.data(), text.size(), &bytes) == DCA_OK, "a text");
    fuzz::promise(text[bytes] == '\0', "a NUL behind the text");
    text.resize(bytes);
    return text;
}

std::string streamed(const dca_tokenizer* tokenizer, const std::vector<int32_t>& ids, int32_t skip_special) {
    dca_text_stream* stream = nullptr;
    fuzz::promise(dca_text_stream_create(tokenizer, nullptr, 0, skip_special, &stream) == DCA_OK, "a stream");
    std::string text;
    const char* piece = nullptr;
    size_t bytes = 0;
    for (const int32_t id : ids) {
        fuzz::promise(dca_text_stream_push(stream, id, &piece, &bytes) == DCA_OK, "a piece");
        fuzz::promise(whole_characters({piece, bytes}), "whole characters");
        text.append(piece, bytes);
    }
    fuzz::promise(dca_text_stream_flush(stream, &piece, &bytes) == DCA_OK, "the rest");
    text.append(piece, bytes);
    dca_text_stream_free(stream);
    return text;
}

void use(const dca_tokenizer* tokenizer, fuzz::Bytes& input) {
    dca_tokenizer_info info{};
    info.size = sizeof info;
    fuzz::promise(dca_tokenizer_get_info(tokenizer, &info) == DCA_OK, "a tokenizer tells about itself");
    std::string text;
    const auto flags = static_cast<int32_t>(input.next() % 16);
    std::vector<int32_t> ids{-1, INT32_MAX, static_cast<int32_t>(info.n_tokens)};
    while (!input.empty()) {
        ids.push_back(input.next());
        text += word(input);
    }
    size_t n = 0;
    if (fuzz::worked(dca_tokenize(tokenizer, text.data(), text.size(), flags, nullptr, 0, &n))) {
        std::vector<int32_t> of_text(n);
        fuzz::promise(dca_tokenize(tokenizer, text.data(), text.size(), flags, of_text.data(), n, &n) == DCA_OK, "the same tokens");
        for (const int32_t id : of_text) fuzz::promise(id >= 0 && id < static_cast<int32_t>(info.n_tokens), "a token of the vocabulary");
        ids.insert(ids.end(), of_text.begin(), of_text.end());
    }
    for (const int32_t skip : {0, 1}) {
        const std::string whole = detokenized(tokenizer, ids, skip);
        fuzz::promise(whole_characters(whole), "a text of whole characters");
        fuzz::promise(whole == streamed(tokenizer, ids, skip), "the same text in pieces");
    }
}

}  // namespace

const char* const fuzz::target_name = "tokenizers";

std::vector<fuzz::Input> fuzz::seeds() {
    std::vector<Input> all;
    for (uint8_t kind = 0; kind < kKinds.size(); ++kind) {
        for (uint8_t pre = 0; pre < kPretokenizers.size(); ++pre) {
            Input input{kind, 0x60, pre, 1, 2, 40};
            for (int i = 0; i < 160; ++i) input.push_back(static_cast<uint8_t>(i * 7 + pre));
            all.push_back(input);
        }
    }
    return all;
}

fuzz::Input fuzz::random_input(Random& random) { return random_bytes(random, 8, 500); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Bytes input({data, size});
    static fuzz::MemoryFile in_memory;
    const std::string bytes = vocabulary(input).bytes();
    in_memory.hold(bytes);
    static const std::string path = in_memory.path();
    dca_tokenizer* tokenizer = nullptr;
    const dca_status status = dca_tokenizer_load(path.c_str(), &tokenizer);
    if (fuzz::worked(status)) {
        use(tokenizer, input);
    } else {
        fuzz::promise(tokenizer == nullptr && (status == DCA_ERROR_FORMAT || status == DCA_ERROR_UNSUPPORTED),
                      "a damaged file is called that");
    }
    dca_tokenizer_free(tokenizer);
    return 0;
}
