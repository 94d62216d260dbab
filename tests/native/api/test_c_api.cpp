// What dca.h promises to programs that use it wrongly.
#include "dca.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "core/gguf/gguf.h"
#include "fuzz/recipe.h"
#include "gguf_bytes.h"
#include "temporary_file.h"

namespace {

/// A small model, loaded.
struct Loaded {
    Loaded()
        : file([] {
              fuzz::Bytes whole({});
              return fuzz::cook(whole);
          }()) {
        CHECK(dca_model_load(file.path().c_str(), nullptr, &model) == DCA_OK);
    }
    ~Loaded() { dca_model_free(model); }

    test::TemporaryFile file;
    dca_model* model = nullptr;
};

constexpr int32_t tokens[] = {1, 2, 3};

}  // namespace

TEST(a_session_of_a_freed_model_gives_an_error) {
    Loaded loaded;
    dca_session* session = nullptr;
    CHECK(dca_session_create(loaded.model, nullptr, &session) == DCA_OK);
    dca_model_free(std::exchange(loaded.model, nullptr));
    std::vector<float> logits(fuzz::n_vocab);
    CHECK(dca_session_eval(session, tokens, 3, DCA_LOGITS_LAST, logits.data(), logits.size()) == DCA_ERROR_ARGUMENT);
    CHECK(std::string(dca_last_error()).find("model was freed") != std::string::npos);
    dca_session_free(session);
}

TEST(a_sequence_of_a_freed_engine_gives_an_error) {
    Loaded loaded;
    dca_engine* engine = nullptr;
    dca_sequence *sequence = nullptr, *fork = nullptr;
    CHECK(dca_engine_create(loaded.model, nullptr, &engine) == DCA_OK);
    CHECK(dca_sequence_create(engine, &sequence) == DCA_OK);
    dca_engine_free(engine);
    CHECK(dca_sequence_fork(sequence, &fork) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_truncate(sequence, 0) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_length(sequence) == 0u);
    dca_sequence_free(sequence);
}

TEST(pages_and_setups_refuse_null_and_too_little_room) {
    Loaded loaded;
    dca_engine* engine = nullptr;
    dca_sequence* sequence = nullptr;
    CHECK(dca_engine_create(loaded.model, nullptr, &engine) == DCA_OK);
    CHECK(dca_sequence_create(engine, &sequence) == DCA_OK);
    std::vector<char> text(DCA_SETUP_BYTES);
    uint64_t page_bytes = 0;
    CHECK(dca_engine_setup(engine, text.data(), text.size(), &page_bytes) == DCA_OK);
    CHECK(page_bytes > 0 && std::string(text.data()).starts_with("model "));
    CHECK(dca_engine_setup(engine, text.data(), std::strlen(text.data()), &page_bytes) == DCA_ERROR_ARGUMENT);
    CHECK(dca_engine_setup(engine, nullptr, text.size(), &page_bytes) == DCA_ERROR_ARGUMENT);
    CHECK(dca_engine_setup(engine, text.data(), text.size(), nullptr) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_read_pages(sequence, 0, 0, nullptr, 0) == DCA_OK);
    CHECK(dca_sequence_read_pages(sequence, 0, 1, nullptr, page_bytes) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_append_pages(sequence, nullptr, 128, text.data(), page_bytes) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_append_pages(sequence, tokens, 3, text.data(), text.size()) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_append_pages(sequence, nullptr, 0, nullptr, 0) == DCA_OK);
    CHECK(dca_sequence_length(sequence) == 0u);
    CHECK(dca_checksum(nullptr, 5, 1) == dca_checksum(text.data(), 0, 1));
    dca_sequence_free(sequence);
    dca_engine_free(engine);
}

TEST(logits_of_an_unknown_kind_are_refused) {
    Loaded loaded;
    dca_session* session = nullptr;
    CHECK(dca_session_create(loaded.model, nullptr, &session) == DCA_OK);
    std::vector<float> logits(fuzz::n_vocab * 3);
    for (const int32_t which : {-1, 3, 7})
        CHECK(dca_session_eval(session, tokens, 3, which, logits.data(), logits.size()) == DCA_ERROR_ARGUMENT);
    dca_session_free(session);
}

TEST(a_struct_size_that_cuts_a_pointer_is_refused) {
    Loaded loaded;
    dca_model_options options{};
    options.size = sizeof options;
    dca_model_options_default(&options);
    options.device = "cpu";
    dca_model* model = nullptr;
    for (const size_t size : {size_t{0}, size_t{7}, size_t{12}, sizeof options - 1, size_t{4104}}) {
        options.size = size;
        CHECK(dca_model_load(loaded.file.path().c_str(), &options, &model) == DCA_ERROR_ARGUMENT);
    }
    options.size = 16;  // ends after `device`
    CHECK(dca_model_load(loaded.file.path().c_str(), &options, &model) == DCA_OK);
    dca_model_free(model);
}

TEST(a_message_is_one_line_whatever_the_path) {
    dca_model* model = nullptr;
    CHECK(dca_model_load("/nonexistent/a\nb\x1b[31m.gguf", nullptr, &model) == DCA_ERROR_IO);
    CHECK(std::string(dca_last_error()).find("a\\x0ab\\x1b[31m.gguf") != std::string::npos);
}

TEST(a_file_of_a_hundred_thousand_keys_is_read) {
    test::GgufBytes bytes;
    for (int i = 0; i < 100000; ++i) bytes.u32("key." + std::to_string(i), 0);
    const test::TemporaryFile file(bytes.file(0));
    const dca::GgufFile gguf(file.path());
    CHECK(gguf.values().size() == 100000u);
    CHECK(gguf.find("key.99999") != nullptr);
}

TEST(every_family_in_every_format_loads) {
    for (uint32_t family = 0; family < fuzz::families(); ++family) {
        for (uint32_t format = 0; format < fuzz::formats(); ++format) {
            const uint8_t bytes[] = {static_cast<uint8_t>(family), static_cast<uint8_t>(format)};
            fuzz::Bytes recipe(bytes);
            const test::TemporaryFile file(fuzz::cook(recipe));
            dca_model* model = nullptr;
            const dca_status status = dca_model_load(file.path().c_str(), nullptr, &model);
            CHECK(status == DCA_OK);
            dca_model_free(model);
        }
    }
}

TEST(a_context_beyond_memory_is_refused_with_what_would_fit) {
    Loaded loaded;
    dca_session_options options{};
    options.size = sizeof options;
    dca_session_options_default(&options);
    options.context = 1u << 30;
    options.cache_type = DCA_CACHE_F32;
    dca_session* session = nullptr;
    CHECK(dca_session_create(loaded.model, &options, &session) == DCA_ERROR_MEMORY);
    CHECK(std::string(dca_last_error()).find("with cache_type q8") != std::string::npos);
    for (const uint32_t context : {0u, (1u << 30) + 1}) {
        options.context = context;
        CHECK(dca_session_create(loaded.model, &options, &session) == DCA_ERROR_ARGUMENT);
    }
    options.context = 64;
    options.cache_type = 9;
    CHECK(dca_session_create(loaded.model, &options, &session) == DCA_ERROR_ARGUMENT);
}

TEST(null_where_something_is_needed_is_an_argument_error) {
    float value = 0.0f;
    uint32_t length = 0;
    dca_model* model = nullptr;
    dca_session* session = nullptr;
    CHECK(dca_model_load(nullptr, nullptr, &model) == DCA_ERROR_ARGUMENT);
    CHECK(dca_model_load("x", nullptr, nullptr) == DCA_ERROR_ARGUMENT);
    CHECK(dca_model_get_info(nullptr, nullptr) == DCA_ERROR_ARGUMENT);
    CHECK(dca_model_metadata_count(nullptr) == 0u);
    CHECK(dca_session_create(nullptr, nullptr, &session) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_eval(nullptr, tokens, 3, DCA_LOGITS_NONE, nullptr, 0) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_score(nullptr, tokens, 3, &value, 1) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_exact_prefix(nullptr, nullptr, &length) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_copy_prefix(nullptr, nullptr, 0) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_tokens(nullptr) == nullptr);
    CHECK(dca_session_save(nullptr, "x") == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_load(nullptr, "x") == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_length(nullptr) == 0u);
    CHECK(dca_sequence_tokens(nullptr) == nullptr);
    CHECK(dca_engine_eval(nullptr, nullptr, 0) == DCA_ERROR_ARGUMENT);
    CHECK(dca_block_format_get(0, nullptr) == DCA_ERROR_ARGUMENT);
}

TEST(metadata_is_handed_out_as_it_stands_in_the_file) {
    Loaded loaded;
    const uint64_t count = dca_model_metadata_count(loaded.model);
    CHECK(count > 5u);
    dca_metadata value{};
    CHECK(dca_model_metadata_at(loaded.model, 0, &value) == DCA_OK);
    CHECK(std::string(value.key, value.key_bytes) == "general.architecture");
    CHECK(std::string(static_cast<const char*>(value.data), value.data_bytes) == "llama");
    CHECK(dca_model_metadata_at(loaded.model, count, &value) == DCA_ERROR_ARGUMENT);
}

TEST(sessions_say_how_much_of_a_start_they_share) {
    Loaded loaded;
    dca_session_options options{};
    options.size = sizeof options;
    dca_session_options_default(&options);
    dca_session *one = nullptr, *same = nullptr, *other = nullptr;
    CHECK(dca_session_create(loaded.model, &options, &one) == DCA_OK);
    CHECK(dca_session_create(loaded.model, &options, &same) == DCA_OK);
    options.cache_type = DCA_CACHE_Q8;
    CHECK(dca_session_create(loaded.model, &options, &other) == DCA_OK);
    uint32_t length = 7;
    CHECK(dca_session_exact_prefix(one, same, &length) == DCA_OK);
    CHECK(length == 1u << 31);
    CHECK(dca_session_exact_prefix(one, other, &length) == DCA_OK);
    CHECK(length == 0u);
    CHECK(dca_session_eval(one, tokens, 3, DCA_LOGITS_NONE, nullptr, 0) == DCA_OK);
    CHECK(dca_session_copy_prefix(other, one, 1) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_copy_prefix(one, one, 1) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_copy_prefix(same, one, 4) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_copy_prefix(same, one, 3) == DCA_OK);
    CHECK(dca_session_tokens(same)[2] == tokens[2]);
    for (dca_session* session : {one, same, other}) dca_session_free(session);
}

TEST(what_an_engine_is_given_wrongly_changes_nothing) {
    Loaded loaded;
    dca_engine *engine = nullptr, *other = nullptr;
    dca_sequence *sequence = nullptr, *stranger = nullptr;
    CHECK(dca_engine_create(loaded.model, nullptr, &engine) == DCA_OK);
    CHECK(dca_engine_create(loaded.model, nullptr, &other) == DCA_OK);
    CHECK(dca_sequence_create(engine, &sequence) == DCA_OK);
    CHECK(dca_sequence_create(other, &stranger) == DCA_OK);
    std::vector<float> out(fuzz::n_vocab);
    const dca_feed feeds[] = {{stranger, tokens, 3, DCA_LOGITS_NONE, nullptr, 0},
                              {sequence, tokens, 0, DCA_LOGITS_NONE, nullptr, 0},
                              {sequence, tokens, 3, DCA_LOGITS_LAST, out.data(), out.size() - 1},
                              {sequence, tokens, 3, DCA_LOGITS_LAST, nullptr, out.size()},
                              {nullptr, tokens, 3, DCA_LOGITS_NONE, nullptr, 0}};
    for (const dca_feed& feed : feeds) CHECK(dca_engine_eval(engine, &feed, 1) == DCA_ERROR_ARGUMENT);
    const dca_feed scored{sequence, tokens, 3, DCA_LOGITS_NONE, out.data(), 1};
    CHECK(dca_engine_score(engine, &scored, 1) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_truncate(sequence, 1) == DCA_ERROR_ARGUMENT);
    CHECK(dca_sequence_length(sequence) == 0u);
    const dca_feed twice[] = {{sequence, tokens, 1, DCA_LOGITS_NONE, nullptr, 0}, {sequence, tokens, 1, DCA_LOGITS_NONE, nullptr, 0}};
    CHECK(dca_engine_eval(engine, twice, 2) == DCA_ERROR_ARGUMENT);
    for (dca_sequence* each : {sequence, stranger}) dca_sequence_free(each);
    for (dca_engine* each : {engine, other}) dca_engine_free(each);
}
