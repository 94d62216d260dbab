// The C API of tokenizers and their streams.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/api/support.h"
#include "core/tokenizer/text_stream.h"
#include "core/tokenizer/tokenizer.h"
#include "dca_text.h"

struct dca_tokenizer {
    std::shared_ptr<const dca::Tokenizer> tokenizer;
};

// Keeps its tokenizer: freed in the wrong order, it still reads no freed memory.
struct dca_text_stream {
    std::shared_ptr<const dca::Tokenizer> tokenizer;
    dca::TextStream stream;
};

using dca::guarded;
using dca::needed;

namespace {

const dca::Tokenizer& tokenizer_of(const dca_tokenizer* handle) { return *needed(handle, "tokenizer").tokenizer; }

std::string_view text_of(const char* text, size_t bytes) {
    if (bytes != 0) needed(text, "text");
    return {bytes == 0 ? "" : text, bytes};
}

std::span<const int32_t> tokens_of(const int32_t* tokens, size_t n) {
    if (n != 0) needed(tokens, "tokens");
    return {tokens, n};
}

dca_tokenizer* make(const dca::GgufFile& file) { return new dca_tokenizer{std::make_shared<const dca::Tokenizer>(file)}; }

void hand_out(const std::string& piece, const char** text, size_t* bytes) {
    needed(text, "text") = piece.c_str();
    if (bytes != nullptr) *bytes = piece.size();
}

}  // namespace

dca_status dca_tokenizer_create(const dca_model* model, dca_tokenizer** tokenizer) {
    return guarded([&] {
        needed(tokenizer, "tokenizer") = nullptr;
        *tokenizer = make(needed(model, "model").model->file());
    });
}

dca_status dca_tokenizer_load(const char* path, dca_tokenizer** tokenizer) {
    return guarded([&] {
        needed(tokenizer, "tokenizer") = nullptr;
        *tokenizer = make(dca::GgufFile(&needed(path, "path")));
    });
}

void dca_tokenizer_free(dca_tokenizer* tokenizer) { delete tokenizer; }

namespace {

struct InfoOf {
    const dca::Tokenizer& tokenizer;

    void fill_info(dca_tokenizer_info& info) const {
        tokenizer.kind_name().copy(info.kind, sizeof info.kind - 1);
        info.n_tokens = static_cast<uint32_t>(tokenizer.vocabulary().size());
        info.bos = tokenizer.bos();
        info.eos = tokenizer.eos();
        info.adds_bos = tokenizer.adds_bos();
        info.adds_eos = tokenizer.adds_eos();
    }
};

}  // namespace

dca_status dca_tokenizer_get_info(const dca_tokenizer* tokenizer, dca_tokenizer_info* info) {
    return guarded([&] { dca::fill(info, InfoOf{tokenizer_of(tokenizer)}); });
}

dca_status dca_tokenizer_end_tokens(const dca_tokenizer* tokenizer, const int32_t** tokens, size_t* n) {
    return guarded([&] {
        const std::vector<int32_t>& all = tokenizer_of(tokenizer).end_ids();
        needed(tokens, "tokens") = all.data();
        needed(n, "n") = all.size();
    });
}

dca_status dca_tokenizer_spelling(const dca_tokenizer* tokenizer, int32_t token, const char** text, size_t* bytes) {
    return guarded([&] {
        const dca::Vocabulary& vocabulary = tokenizer_of(tokenizer).vocabulary();
        const std::string_view spelling = vocabulary.text(token);
        needed(text, "text") = vocabulary.has(token) ? spelling.data() : nullptr;
        needed(bytes, "bytes") = spelling.size();
    });
}

dca_status dca_tokenizer_find(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t* token) {
    return guarded([&] { needed(token, "token") = tokenizer_of(tokenizer).vocabulary().find(text_of(text, bytes)); });
}

dca_status dca_tokenize(const dca_tokenizer* tokenizer, const char* text, size_t bytes, int32_t flags, int32_t* tokens, size_t capacity,
                        size_t* n) {
    return guarded([&] {
        needed(n, "n") = 0;
        constexpr int32_t known = DCA_TEXT_BEGIN | DCA_TEXT_END | DCA_TEXT_SPECIAL | DCA_TEXT_PROMPT;
        if ((flags & ~known) != 0)
            dca::fail(DCA_ERROR_ARGUMENT, "flags is ", flags, ", must be put together of DCA_TEXT_* (0 to ", known, ")");
        const std::vector<int32_t> ids =
            tokenizer_of(tokenizer).encode(text_of(text, bytes), {.begins = (flags & DCA_TEXT_BEGIN) != 0,
                                                                  .begins_once = (flags & DCA_TEXT_PROMPT) != 0,
                                                                  .ends = (flags & DCA_TEXT_END) != 0,
                                                                  .specials = (flags & DCA_TEXT_SPECIAL) != 0});
        *n = ids.size();
        if (tokens == nullptr) return;
        if (ids.size() > capacity) dca::fail(DCA_ERROR_ARGUMENT, "room for ", capacity, " tokens, the text has ", ids.size());
        std::ranges::copy(ids, tokens);
    });
}

dca_status dca_detokenize(const dca_tokenizer* tokenizer, const int32_t* tokens, size_t n, int32_t skip_special, char* text,
                          size_t capacity, size_t* bytes) {
    return guarded([&] {
        needed(bytes, "bytes") = 0;
        const std::string whole = tokenizer_of(tokenizer).decode(tokens_of(tokens, n), skip_special != 0);
        *bytes = whole.size();
        if (text == nullptr) return;
        if (whole.size() >= capacity)
            dca::fail(DCA_ERROR_ARGUMENT, "room for ", capacity, " bytes, the text has ", whole.size(), " and a NUL behind them");
        std::ranges::copy(whole, text);
        text[whole.size()] = '\0';
    });
}

dca_status dca_text_stream_create(const dca_tokenizer* tokenizer, const int32_t* after, size_t n, int32_t skip_special,
                                  dca_text_stream** stream) {
    return guarded([&] {
        needed(stream, "stream") = nullptr;
        const std::shared_ptr<const dca::Tokenizer>& shared = needed(tokenizer, "tokenizer").tokenizer;
        *stream = new dca_text_stream{shared, dca::TextStream(*shared, tokens_of(after, n), skip_special != 0)};
    });
}

void dca_text_stream_free(dca_text_stream* stream) { delete stream; }

dca_status dca_text_stream_push(dca_text_stream* stream, int32_t token, const char** text, size_t* bytes) {
    return guarded([&] { hand_out(needed(stream, "stream").stream.push(token), text, bytes); });
}

dca_status dca_text_stream_flush(dca_text_stream* stream, const char** text, size_t* bytes) {
    return guarded([&] { hand_out(needed(stream, "stream").stream.flush(), text, bytes); });
}
