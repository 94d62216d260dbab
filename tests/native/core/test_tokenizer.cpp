// Tokenizers through the C API: small vocabularies whose answers can be worked out by hand, and files that are wrong.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "dca_text.h"
#include "faults/nth_failure.h"
#include "faults/small_model.h"
#include "temporary_file.h"
#include "vocabulary_file.h"

namespace {

using Ids = std::vector<int32_t>;

struct OpenTokenizer {
    explicit OpenTokenizer(const test::VocabularyFile& vocabulary) {
        const test::TemporaryFile file(vocabulary.bytes());
        status = dca_tokenizer_load(file.path().c_str(), &handle);
        if (status != DCA_OK) message = dca_last_error();
    }
    ~OpenTokenizer() { dca_tokenizer_free(handle); }
    OpenTokenizer(const OpenTokenizer&) = delete;
    OpenTokenizer& operator=(const OpenTokenizer&) = delete;

    Ids encode(const std::string& text, int32_t flags = 0) const {
        size_t n = 0;
        CHECK(dca_tokenize(handle, text.data(), text.size(), flags, nullptr, 0, &n) == DCA_OK);
        Ids ids(n);
        CHECK(dca_tokenize(handle, text.data(), text.size(), flags, ids.data(), ids.size(), &n) == DCA_OK);
        return ids;
    }
    std::string decode(const Ids& ids, int32_t skip_special = 0) const {
        std::string text(1000, '\0');
        size_t bytes = 0;
        CHECK(dca_detokenize(handle, ids.data(), ids.size(), skip_special, text.data(), text.size(), &bytes) == DCA_OK);
        text.resize(bytes);
        return text;
    }

    dca_tokenizer* handle = nullptr;
    dca_status status;
    std::string message;
};

/// <s>, </s>, a user-defined token, then letters and what merges make of them.
test::VocabularyFile byte_level() {
    test::VocabularyFile file;
    file.tokens = {"<s>", "</s>", "<tool>", "a", "b", "c", "ab", "abc", "bc", "\u0120", "\u0120a", "\u00c3", "\u00a9", "a"};
    file.types = {3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    file.merges = {"b c", "a b", "ab c", "\u0120 a"};
    file.bos = 0;
    file.eos = 1;
    return file;
}

test::VocabularyFile pieces(const std::string& model) {
    test::VocabularyFile file;
    file.model = model;
    file.pre.clear();
    file.tokens = {"<unk>", "<s>", "</s>", "<0x41>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "<tool>"};
    file.types = {2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 4};
    file.scores = {0, 0, 0, 0, 0, 0, -1, -2, -3, -2.5f, -4, -2.25f, 0};
    file.bos = 1;
    file.eos = 2;
    return file;
}

}  // namespace

TEST(tokenizer_merges_the_best_pair_first) {
    const OpenTokenizer tokenizer(byte_level());
    CHECK(tokenizer.status == DCA_OK);
    CHECK((tokenizer.encode("abc") == Ids{3, 8}));  // "b c" comes before "a b", and no merge joins a and bc
    CHECK((tokenizer.encode("ab a") == Ids{6, 10}));
    CHECK((tokenizer.encode("axb") == Ids{6}));  // x has no token, and its neighbours meet
    CHECK((tokenizer.encode("") == Ids{}));
}

TEST(tokenizer_takes_whole_pieces_before_merges_where_the_name_says_so) {
    test::VocabularyFile file = byte_level();
    file.pre = "llama-bpe";
    CHECK((OpenTokenizer(file).encode("abc") == Ids{7}));
}

TEST(tokenizer_finds_the_longest_whole_token) {
    test::VocabularyFile file = byte_level();
    file.tokens.insert(file.tokens.end(), {"<tool>a", "ol>", "l>ab<s>", "<s><"});
    file.types.insert(file.types.end(), {4, 4, 4, 4});
    const OpenTokenizer tokenizer(file);
    CHECK((tokenizer.encode("<tool>ab", DCA_TEXT_SPECIAL) == Ids{14, 4}));
    CHECK((tokenizer.encode("<tool>", DCA_TEXT_SPECIAL) == Ids{2}));
    CHECK((tokenizer.encode("<toool>ab<s>", DCA_TEXT_SPECIAL) == Ids{15, 6, 0}));
    CHECK((tokenizer.encode("l>ab<s><s>", DCA_TEXT_SPECIAL) == Ids{16, 0}));
    CHECK((tokenizer.encode("<s><s>", DCA_TEXT_SPECIAL) == Ids{17}));  // what is left has no tokens
}

TEST(tokenizer_leaves_control_tokens_text_unless_asked) {
    const OpenTokenizer tokenizer(byte_level());
    CHECK((tokenizer.encode("a<s>b", DCA_TEXT_SPECIAL) == Ids{3, 0, 4}));
    CHECK((tokenizer.encode("a<s>b") == Ids{3, 4}));  // <, s and > have no tokens
    CHECK((tokenizer.encode("a<tool>b") == Ids{3, 2, 4}));
}

TEST(tokenizer_puts_around_a_text_what_the_file_says) {
    test::VocabularyFile file = byte_level();
    CHECK((OpenTokenizer(file).encode("a", DCA_TEXT_BEGIN | DCA_TEXT_END) == Ids{3}));
    file.add_bos = file.add_eos = 1;
    const OpenTokenizer tokenizer(file);
    CHECK((tokenizer.encode("a") == Ids{3}));
    CHECK((tokenizer.encode("a", DCA_TEXT_BEGIN | DCA_TEXT_END) == Ids{0, 3, 1}));
    CHECK((tokenizer.encode("<s>a", DCA_TEXT_BEGIN | DCA_TEXT_SPECIAL) == Ids{0, 0, 3}));
    CHECK((tokenizer.encode("<s>a", DCA_TEXT_PROMPT | DCA_TEXT_SPECIAL) == Ids{0, 3}));
    CHECK((tokenizer.encode("a", DCA_TEXT_PROMPT) == Ids{0, 3}));
    CHECK((tokenizer.encode("", DCA_TEXT_PROMPT) == Ids{0}));
}

TEST(tokenizer_tells_about_itself) {
    test::VocabularyFile file = byte_level();
    file.end_ids = {7, 1, -5, 99, 13};
    const OpenTokenizer tokenizer(file);
    dca_tokenizer_info info{};
    info.size = sizeof info;
    CHECK(dca_tokenizer_get_info(tokenizer.handle, &info) == DCA_OK);
    CHECK(std::string(info.kind) == "gpt2");
    CHECK(info.n_tokens == 14u);
    CHECK(info.bos == 0);
    CHECK(info.eos == 1);
    CHECK(info.adds_bos == 0);
    const int32_t* ends = nullptr;
    size_t n = 0;
    CHECK(dca_tokenizer_end_tokens(tokenizer.handle, &ends, &n) == DCA_OK);
    CHECK((Ids(ends, ends + n) == Ids{1, 7}));  // 13 has the text of 3, so it has none
    const char* text = nullptr;
    size_t bytes = 0;
    CHECK(dca_tokenizer_spelling(tokenizer.handle, 7, &text, &bytes) == DCA_OK);
    CHECK((std::string(text, bytes) == "abc"));
    for (const int32_t none : {-1, 13, 14, INT32_MAX}) {
        CHECK(dca_tokenizer_spelling(tokenizer.handle, none, &text, &bytes) == DCA_OK);
        CHECK(text == nullptr);
    }
    int32_t id = 0;
    CHECK(dca_tokenizer_find(tokenizer.handle, "a", 1, &id) == DCA_OK);
    CHECK(id == 3);
    CHECK(dca_tokenizer_find(tokenizer.handle, "nobody", 6, &id) == DCA_OK);
    CHECK(id == -1);
}

TEST(tokenizer_decodes_bytes_and_spellings) {
    const OpenTokenizer tokenizer(byte_level());
    CHECK(tokenizer.decode({3, 10, 11, 12}) == "a a\u00e9");
    CHECK(tokenizer.decode({0, 3, 2}) == "<s>a<tool>");
    CHECK(tokenizer.decode({0, 3, 2}, 1) == "a<tool>");
    CHECK(tokenizer.decode({11, 3, -1, 12, 11}) == "\ufffda\ufffd\ufffd");
    CHECK(tokenizer.decode({}) == "");
}

TEST(tokenizer_of_sentencepiece) {
    const OpenTokenizer tokenizer(pieces("llama"));
    CHECK(tokenizer.status == DCA_OK);
    CHECK((tokenizer.encode("ab", DCA_TEXT_BEGIN) == Ids{1, 11}));
    CHECK((tokenizer.encode("a b") == Ids{10, 6, 8}));
    CHECK((tokenizer.encode("A\u00e9") == Ids{6, 3, 4, 5}));
    CHECK((tokenizer.encode("xyza") == Ids{6, 0, 7}));  // neighbours without a token are one unknown token
    CHECK((tokenizer.encode("a<tool>b") == Ids{10, 12, 6, 8}));
    CHECK(tokenizer.decode({10, 6, 8, 4, 5}) == "a b\u00e9");
    CHECK(tokenizer.decode({6, 4, 8}) == "\ufffdb");
    CHECK(tokenizer.decode({4, 4, 5, 3}) == "\ufffd\u00e9A");
    test::VocabularyFile file = pieces("llama");
    file.space_prefix = 0;
    const OpenTokenizer bare(file);
    CHECK((bare.encode("a b") == Ids{7, 6, 8}));
    CHECK(bare.decode({10}) == " a");
}

TEST(tokenizer_of_a_unigram_model) {
    const OpenTokenizer tokenizer(pieces("t5"));
    CHECK(tokenizer.status == DCA_OK);
    CHECK((tokenizer.encode("ab") == Ids{11}));
    CHECK((tokenizer.encode("ba") == Ids{6, 8, 7}));
    CHECK((tokenizer.encode("xy\u00e9a") == Ids{6, 0, 7}));  // what is unknown together has not all its bytes
    CHECK((tokenizer.encode("\u00e9") == Ids{6, 4, 5}));
    CHECK((tokenizer.encode("</s>", DCA_TEXT_SPECIAL) == Ids{2}));
    CHECK((tokenizer.encode("a</s>") == Ids{6, 7, 0}));
    test::VocabularyFile file = pieces("t5");
    file.remove_extra_spaces = 1;
    CHECK((OpenTokenizer(file).encode("a   b  ") == Ids{6, 7, 6, 8}));
    file.space_prefix = 0;
    CHECK((OpenTokenizer(file).encode("  a") == Ids{7}));
}

TEST(tokenizer_with_a_map_of_characters) {
    // Two keys: "B" leads to "a", "C" to "".
    std::vector<uint32_t> units(1024, 0);
    units[0] = 256u << 10;
    units[256 ^ 'B'] = (256u ^ 'B' ^ 512u) << 10 | 1u << 8 | 'B';
    units[256 ^ 'C'] = (256u ^ 'C' ^ 768u) << 10 | 1u << 8 | 'C';
    units[512] = 1u << 31;
    units[768] = 1u << 31 | 1u;
    std::string bytes = test::GgufBytes::packed<uint32_t>(4096);
    for (const uint32_t unit : units) bytes += test::GgufBytes::packed(unit);
    bytes += std::string("a\0\0", 3);
    test::VocabularyFile file = pieces("t5");
    file.character_map.assign(bytes.begin(), bytes.end());
    const OpenTokenizer tokenizer(file);
    CHECK(tokenizer.status == DCA_OK);
    CHECK((tokenizer.encode("Bb") == Ids{11}));
    CHECK((tokenizer.encode("aCb") == Ids{11}));
    CHECK((tokenizer.encode("B\u0301b") == Ids{11}));                      // the mark goes with what it stands on
    CHECK((tokenizer.encode("B\u0301\u0301\u0301b") == Ids{6, 7, 0, 8}));  // longer than what is replaced as a whole
    CHECK((tokenizer.encode("\u0600Bb") == Ids{6, 0, 9}));  // a sign that belongs to what follows: the map has no such beginning
    for (size_t length : {size_t{3}, size_t{100}, bytes.size() - 3}) {
        file.character_map.resize(length);
        CHECK((OpenTokenizer(file).status == DCA_ERROR_FORMAT) == (length != bytes.size() - 3));
    }
    file.character_map.assign(bytes.begin(), bytes.end());
    file.character_map[4 + 2] = 0xff;  // the root's children
    CHECK(OpenTokenizer(file).message.find("points outside") != std::string::npos);
    file.character_map.assign(bytes.begin(), bytes.end());
    file.character_map[4 + 4 * 512] = 9;
    CHECK(OpenTokenizer(file).message.find("points beside") != std::string::npos);
    file.character_map.assign(bytes.begin(), bytes.end());
    file.character_map.insert(file.character_map.end() - 2, 300, 'x');
    CHECK(OpenTokenizer(file).message.find("more than 256") != std::string::npos);
    file.character_map.back() = 0xff;
    CHECK(OpenTokenizer(file).message.find("not UTF-8") != std::string::npos);
}

TEST(tokenizer_refuses_files_that_are_wrong) {
    const auto refused = [](test::VocabularyFile file, dca_status status, const char* names) {
        const OpenTokenizer tokenizer(file);
        CHECK(tokenizer.status == status);
        CHECK(tokenizer.handle == nullptr);
        test::check(tokenizer.message.find(names) != std::string::npos && tokenizer.message.find('\n') == std::string::npos,
                    tokenizer.message.c_str(), __FILE__, __LINE__);
    };
    test::VocabularyFile file = byte_level();
    file.model = "bert";
    refused(file, DCA_ERROR_UNSUPPORTED, "tokenizer.ggml.model");
    file = byte_level();
    file.pre = "nobody's";
    refused(file, DCA_ERROR_UNSUPPORTED, "tokenizer.ggml.pre");
    for (const char* merge : {"ab", "a b c", "a q", "q a", "c c"}) {
        file = byte_level();
        file.merges.push_back(merge);
        refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml.merges");
    }
    file = byte_level();
    file.types.pop_back();
    refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml.token_type");
    file = byte_level();
    file.tokens[3] = "\xff";
    refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml.tokens");
    file = byte_level();
    file.tokens[3] = std::string(4097, 'x');
    refused(file, DCA_ERROR_FORMAT, "4097 characters");
    file = byte_level();
    for (int i = 0; i < 100001; ++i) {
        file.tokens.push_back(std::to_string(i));
        file.types.push_back(4);
    }
    refused(file, DCA_ERROR_FORMAT, "added tokens");
    file = pieces("llama");
    file.scores.pop_back();
    refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml.scores");
    file = pieces("llama");
    file.scores[3] = NAN;
    refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml.scores");
    file = pieces("llama");
    file.tokens[7] = std::string(257, 'x');
    refused(file, DCA_ERROR_FORMAT, "257 characters");
    file = pieces("t5");
    file.tokens = {};
    file.types = {};
    file.scores = {1.0f};
    refused(file, DCA_ERROR_FORMAT, "tokenizer.ggml");
    const OpenTokenizer none(test::VocabularyFile{});  // no tokens: nothing can be said
    CHECK(none.status == DCA_OK);
    CHECK((none.encode("abc") == Ids{}));
}

TEST(tokenizer_of_a_unigram_model_without_unknown) {
    test::VocabularyFile file = pieces("t5");
    file.types[0] = 1;
    const OpenTokenizer tokenizer(file);
    size_t n = 0;
    CHECK(dca_tokenize(tokenizer.handle, "x", 1, 0, nullptr, 0, &n) == DCA_ERROR_FORMAT);
}

TEST(keys_of_a_tokenizer_may_be_of_any_width_but_not_of_another_kind) {
    const auto status_of = [](const char* key, uint32_t type, const std::string& encoded) {
        test::VocabularyFile file = byte_level();
        file.bos = -1;
        const test::TemporaryFile bytes(file.values().value_of(key, type, encoded).file(0));
        dca_tokenizer* tokenizer = nullptr;
        const dca_status status = dca_tokenizer_load(bytes.path().c_str(), &tokenizer);
        dca_tokenizer_free(tokenizer);
        return status;
    };
    using test::GgufBytes;
    CHECK(status_of("tokenizer.ggml.bos_token_id", 10, GgufBytes::packed(UINT64_MAX)) == DCA_OK);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 11, GgufBytes::packed(INT64_MIN)) == DCA_OK);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 1, GgufBytes::packed(int8_t{2})) == DCA_OK);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 3, GgufBytes::packed(int16_t{2})) == DCA_OK);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 2, GgufBytes::packed(uint16_t{2})) == DCA_OK);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 6, GgufBytes::packed(1.0f)) == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.ggml.bos_token_id", 9, test::array_of<int32_t>(5, {1})) == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.ggml.eot_token_id", 8, GgufBytes::packed<uint64_t>(1) + "1") == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.end_token_ids", 5, GgufBytes::packed(int32_t{1})) == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.end_token_ids", 9, test::array_of<float>(6, {1.0f})) == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.ggml.add_bos_token", 4, GgufBytes::packed(uint32_t{1})) == DCA_ERROR_FORMAT);
    CHECK(status_of("tokenizer.ggml.scores", 9, test::array_of<double>(12, {1.0})) == DCA_OK);  // not looked at
}

TEST(tokenizer_needs_its_keys) {
    const auto message_of = [](const test::GgufBytes& values) {
        const test::TemporaryFile file(values.file(0));
        dca_tokenizer* tokenizer = nullptr;
        CHECK(dca_tokenizer_load(file.path().c_str(), &tokenizer) != DCA_OK);
        return std::string(dca_last_error());
    };
    test::GgufBytes file;
    CHECK(message_of(file).find("has no tokenizer") != std::string::npos);
    file.text("tokenizer.huggingface.json", "{}");
    CHECK(message_of(file).find("only Python") != std::string::npos);
    file.text("tokenizer.ggml.model", "gpt2");
    CHECK(message_of(file).find("tokenizer.ggml.tokens") != std::string::npos);
    file.value_of("tokenizer.ggml.tokens", 9, test::array_of({"a", "b"}));
    CHECK(message_of(file).find("tokenizer.ggml.merges") != std::string::npos);
    file.value_of("tokenizer.ggml.merges", 4, test::GgufBytes::packed(1u));
    CHECK(message_of(file).find("must be an array of strings") != std::string::npos);
}

TEST(tokenizer_checks_its_arguments) {
    const OpenTokenizer tokenizer(byte_level());
    size_t n = 7;
    int32_t ids[2] = {};
    char text[4] = {};
    CHECK(dca_tokenize(nullptr, "a", 1, 0, nullptr, 0, &n) == DCA_ERROR_ARGUMENT);
    CHECK(dca_tokenize(tokenizer.handle, nullptr, 1, 0, nullptr, 0, &n) == DCA_ERROR_ARGUMENT);
    CHECK(dca_tokenize(tokenizer.handle, nullptr, 0, 0, nullptr, 0, &n) == DCA_OK);
    CHECK(dca_tokenize(tokenizer.handle, "a", 1, 16, nullptr, 0, &n) == DCA_ERROR_ARGUMENT);
    CHECK(dca_tokenize(tokenizer.handle, "a", 1, 0, nullptr, 0, nullptr) == DCA_ERROR_ARGUMENT);
    CHECK(dca_tokenize(tokenizer.handle, "a\xff", 2, 0, nullptr, 0, &n) == DCA_ERROR_ARGUMENT);
    CHECK(dca_tokenize(tokenizer.handle, "a a a", 5, 0, ids, 2, &n) == DCA_ERROR_ARGUMENT);
    CHECK(n == 3u);
    CHECK(ids[0] == 0);
    const int32_t abc[] = {7, 3};
    CHECK(dca_detokenize(tokenizer.handle, abc, 2, 0, text, sizeof text, &n) == DCA_ERROR_ARGUMENT);
    CHECK(n == 4u);
    CHECK(dca_detokenize(tokenizer.handle, abc, 1, 0, text, sizeof text, &n) == DCA_OK);
    CHECK(std::string(text) == "abc");
    CHECK(dca_detokenize(tokenizer.handle, nullptr, 1, 0, text, sizeof text, &n) == DCA_ERROR_ARGUMENT);
    dca_text_stream* stream = nullptr;
    CHECK(dca_text_stream_create(nullptr, nullptr, 0, 0, &stream) == DCA_ERROR_ARGUMENT);
    CHECK(dca_text_stream_push(nullptr, 0, nullptr, nullptr) == DCA_ERROR_ARGUMENT);
    CHECK(dca_text_stream_flush(nullptr, nullptr, nullptr) == DCA_ERROR_ARGUMENT);
    dca_text_stream_free(nullptr);
    dca_tokenizer_free(nullptr);
}

namespace {

std::string streamed(const OpenTokenizer& tokenizer, const Ids& after, const Ids& ids, int32_t skip_special = 0) {
    dca_text_stream* stream = nullptr;
    CHECK(dca_text_stream_create(tokenizer.handle, after.data(), after.size(), skip_special, &stream) == DCA_OK);
    std::string all;
    const char* piece = nullptr;
    size_t bytes = 0;
    for (const int32_t id : ids) {
        CHECK(dca_text_stream_push(stream, id, &piece, &bytes) == DCA_OK);
        CHECK(std::strlen(piece) == bytes);
        (all += '|').append(piece, bytes);
    }
    CHECK(dca_text_stream_flush(stream, &piece, nullptr) == DCA_OK);
    (all += '|') += piece;
    dca_text_stream_free(stream);
    return all;
}

}  // namespace

TEST(stream_gives_whole_characters) {
    const OpenTokenizer bytes(byte_level());
    CHECK(streamed(bytes, {}, {3, 11, 12, 10}) == "|a||\u00e9| a|");
    CHECK(streamed(bytes, {11}, {12, 3}) == "|\u00e9|a|");  // completes what the prompt ended in
    CHECK(streamed(bytes, {11}, {3, 11}) == "|a||\ufffd");  // what was wrong in the prompt is not shown again
    CHECK(streamed(bytes, {}, {0, 3}, 1) == "||a|");
    const OpenTokenizer llama(pieces("llama"));
    CHECK(streamed(llama, {}, {10, 10, 4, 5}) == "|a| a||\u00e9|");
    CHECK(streamed(llama, {7}, {10}) == "| a|");
    CHECK(streamed(llama, {1}, {10}) == "| a|");
    CHECK(streamed(llama, {4}, {8}) == "|b|");
}

TEST(stream_knows_every_form_of_wrong_utf8) {
    test::VocabularyFile file = pieces("llama");
    file.tokens.resize(3);
    for (int byte = 0; byte < 256; ++byte) {
        char text[8];
        std::snprintf(text, sizeof text, "<0x%02x>", static_cast<unsigned>(byte));
        file.tokens.emplace_back(text);
    }
    file.types.assign(file.tokens.size(), 6);
    file.scores.assign(file.tokens.size(), 0.0f);
    const OpenTokenizer tokenizer(file);
    const auto decoded = [&](std::initializer_list<int> data) {
        Ids ids;
        for (const int byte : data) ids.push_back(3 + byte);
        return tokenizer.decode(ids);
    };
    CHECK(decoded({0xf0, 0x9f, 0x98, 0x80}) == "\U0001f600");
    CHECK(decoded({0xe0, 0x80, 'x'}) == "\ufffd\ufffdx");        // a longer form
    CHECK(decoded({0xed, 0xa0, 0x80}) == "\ufffd\ufffd\ufffd");  // a surrogate
    CHECK(decoded({0xf0, 0x80}) == "\ufffd\ufffd");
    CHECK(decoded({0xf4, 0x90}) == "\ufffd\ufffd");  // beyond the last character
    CHECK(decoded({0xc0, 0x80, 0xff}) == "\ufffd\ufffd\ufffd");
    CHECK(decoded({0xe4, 0xb8, 0xe4, 0xb8, 0xad}) == "\ufffd\ufffd\u4e2d");
}

TEST(a_tokenizer_outlives_its_model) {
    test::SmallModel small(test::llama, test::f32);
    dca_tokenizer* tokenizer = nullptr;
    CHECK(dca_tokenizer_create(small.model, &tokenizer) == DCA_ERROR_UNSUPPORTED);  // it has none
    CHECK(dca_tokenizer_create(nullptr, &tokenizer) == DCA_ERROR_ARGUMENT);
    CHECK(tokenizer == nullptr);
    CHECK(dca_tokenizer_load("/nowhere.gguf", &tokenizer) == DCA_ERROR_IO);
}

TEST(nth_failure_of_tokenizers) {
    OpenTokenizer(byte_level()).encode("a");  // what is made once in a process
    for (const test::VocabularyFile& file : {byte_level(), pieces("llama"), pieces("t5")}) {
        const test::TemporaryFile bytes(file.bytes());
        const fault::NothingStays after;
        dca_tokenizer* tokenizer = nullptr;
        fault::every_failure_of_any_kind(
            false, [&] { return dca_tokenizer_load(bytes.path().c_str(), &tokenizer); },
            [&](dca_status status) {
                CHECK((tokenizer == nullptr) == (status != DCA_OK));
                dca_tokenizer_free(std::exchange(tokenizer, nullptr));
            });
        const OpenTokenizer open(file);
        const std::string text = "ab a\u00e9 <s>ab";
        const Ids expected = open.encode(text, DCA_TEXT_SPECIAL);
        Ids ids(expected.size());
        size_t n = 0;
        fault::every_failure_of_any_kind(
            false, [&] { return dca_tokenize(open.handle, text.data(), text.size(), DCA_TEXT_SPECIAL, ids.data(), ids.size(), &n); },
            [&](dca_status status) {
                if (status == DCA_OK) CHECK(ids == expected);
            });
        fault::every_failure_of_any_kind(
            false, [&] { return dca_detokenize(open.handle, expected.data(), expected.size(), 0, nullptr, 0, &n); }, [](dca_status) {});
    }
}
