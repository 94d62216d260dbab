// A small model of some family in some format, in a file and loaded; and what it answers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "dca.h"
#include "fuzz/recipe.h"
#include "temporary_file.h"

namespace test {

// Places in recipe.cpp's lists.
enum Family : uint8_t { llama = 0, llama_with_scheme = 1, phi3 = 4, qwen2moe = 5 };
enum Format : uint8_t { f32 = 0, f16 = 1, q8_0 = 7, q4_k = 11 };

inline std::string small_model(Family family, Format format) {
    const uint8_t bytes[] = {family, format};
    fuzz::Bytes recipe(bytes);
    return fuzz::cook(recipe);
}

inline dca_status load(const std::string& path, int threads, bool repack, dca_model** model) {
    dca_model_options options{};
    options.size = sizeof options;
    dca_model_options_default(&options);
    options.threads = threads;
    options.repack = repack;
    return dca_model_load(path.c_str(), &options, model);
}

inline dca_session_options session_options(uint32_t context) {
    dca_session_options options{};
    options.size = sizeof options;
    dca_session_options_default(&options);
    options.context = context;
    options.prefill_block = 8;
    return options;
}

inline dca_engine_options engine_options(uint32_t tokens) {
    dca_engine_options options{};
    options.size = sizeof options;
    dca_engine_options_default(&options);
    options.tokens = tokens;
    options.max_rows = 8;
    return options;
}

/// `count` token ids, the same every time.
inline std::vector<int32_t> some_tokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>((i * 7 + i / 5) % fuzz::n_vocab);
    return tokens;
}

struct SmallModel {
    SmallModel(Family family, Format format, int threads = 1, bool repack = true) : file(small_model(family, format)) {
        CHECK(load(file.path(), threads, repack, &model) == DCA_OK);
    }
    ~SmallModel() { dca_model_free(model); }
    SmallModel(const SmallModel&) = delete;
    SmallModel& operator=(const SmallModel&) = delete;

    TemporaryFile file;
    dca_model* model = nullptr;
};

/// Logits after `tokens` in a new session.
inline std::vector<float> logits_of(dca_model* model, const std::vector<int32_t>& tokens, uint32_t context = 64) {
    const dca_session_options options = session_options(context);
    std::vector<float> logits(fuzz::n_vocab);
    dca_session* session = nullptr;
    CHECK(dca_session_create(model, &options, &session) == DCA_OK);
    CHECK(dca_session_eval(session, tokens.data(), tokens.size(), DCA_LOGITS_LAST, logits.data(), logits.size()) == DCA_OK);
    dca_session_free(session);
    return logits;
}

}  // namespace test
