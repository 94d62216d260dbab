// What threads may do at once: sessions and engines of one model, models that come and go, calls that are cancelled. Under the
// thread sanitizer (make thread-sanitize) these find races; here, answers that change with company.
#include <atomic>
#include <thread>
#include <vector>

#include "faults/small_model.h"

using test::SmallModel;

namespace {

constexpr int kRounds = 6;

/// Runs `body(index)` in `count` threads at once; true if all said so.
template <class Body>
bool in_threads(int count, Body body) {
    std::atomic<int> good{0};
    std::vector<std::thread> threads;
    for (int index = 0; index < count; ++index) threads.emplace_back([&, index] { good += body(index) ? 1 : 0; });
    for (std::thread& thread : threads) thread.join();
    return good == count;
}

/// Logits after `tokens`, from an engine in which another sequence goes on at the same time.
std::vector<float> logits_in_company(dca_model* model, const std::vector<int32_t>& tokens) {
    std::vector<float> logits(fuzz::n_vocab);
    const dca_engine_options options = test::engine_options(512);
    dca_engine* engine = nullptr;
    dca_sequence *one = nullptr, *other = nullptr;
    bool good = dca_engine_create(model, &options, &engine) == DCA_OK && dca_sequence_create(engine, &one) == DCA_OK;
    const dca_feed start{one, tokens.data(), tokens.size() - 1, DCA_LOGITS_NONE, nullptr, 0};
    good = good && dca_engine_eval(engine, &start, 1) == DCA_OK && dca_sequence_fork(one, &other) == DCA_OK;
    const dca_feed feeds[] = {{one, &tokens.back(), 1, DCA_LOGITS_LAST, logits.data(), logits.size()},
                              {other, tokens.data(), 1, DCA_LOGITS_NONE, nullptr, 0}};
    good = good && dca_engine_eval(engine, feeds, 2) == DCA_OK;
    dca_sequence_free(other);
    dca_sequence_free(one);
    dca_engine_free(engine);
    return good ? logits : std::vector<float>();
}

}  // namespace

TEST(threads_share_a_model_and_get_the_answers_of_one) {
    for (const auto& [family, format] : {std::pair{test::llama_with_scheme, test::q8_0}, {test::qwen2moe, test::f16}}) {
        SmallModel small(family, format, 3);
        const std::vector<int32_t> tokens = test::some_tokens(30);
        const std::vector<float> in_session = test::logits_of(small.model, tokens), in_engine = logits_in_company(small.model, tokens);
        CHECK(in_threads(6, [&](int index) {
            for (int round = 0; round < kRounds; ++round) {
                if (index % 2 == 0 && test::logits_of(small.model, tokens) != in_session) return false;
                if (index % 2 != 0 && logits_in_company(small.model, tokens) != in_engine) return false;
            }
            return true;
        }));
    }
}

TEST(threads_load_and_free_models_while_others_run) {
    SmallModel small(test::llama, test::q8_0, 2);
    const test::TemporaryFile file(test::small_model(test::phi3, test::q4_k));
    const std::vector<int32_t> tokens = test::some_tokens(20);
    const std::vector<float> expected = test::logits_of(small.model, tokens);
    CHECK(in_threads(4, [&](int index) {
        for (int round = 0; round < kRounds; ++round) {
            if (index % 2 == 0) {
                if (test::logits_of(small.model, tokens) != expected) return false;
                continue;
            }
            dca_model* model = nullptr;
            if (test::load(file.path(), 2, round % 2 == 0, &model) != DCA_OK) return false;
            test::logits_of(model, tokens);
            dca_model_free(model);
        }
        return true;
    }));
}

TEST(threads_cancel_their_own_calls_only) {
    SmallModel small(test::llama_with_scheme, test::q8_0, 2);
    const std::vector<int32_t> tokens = test::some_tokens(60);
    const std::vector<float> expected = test::logits_of(small.model, tokens);
    CHECK(in_threads(4, [&](int index) {
        dca_session_options options = test::session_options(64);
        if (index % 2 == 0) options.progress = [](uint64_t done, uint64_t, void*) { return done > 16 ? 1 : 0; };
        for (int round = 0; round < kRounds; ++round) {
            std::vector<float> logits(fuzz::n_vocab);
            dca_session* session = nullptr;
            if (dca_session_create(small.model, &options, &session) != DCA_OK) return false;
            const dca_status status =
                dca_session_eval(session, tokens.data(), tokens.size(), DCA_LOGITS_LAST, logits.data(), logits.size());
            dca_session_free(session);
            if (status != (index % 2 == 0 ? DCA_ERROR_CANCELLED : DCA_OK)) return false;
            if (index % 2 != 0 && logits != expected) return false;
        }
        return true;
    }));
}

TEST(threads_have_messages_of_their_own) {
    CHECK(in_threads(4, [&](int index) {
        const std::string path = "/nowhere/" + std::to_string(index);
        for (int round = 0; round < 50; ++round) {
            dca_model* model = nullptr;
            if (dca_model_load(path.c_str(), nullptr, &model) != DCA_ERROR_IO) return false;
            if (std::string(dca_last_error()).find(path) != 0) return false;
        }
        return true;
    }));
}

TEST(threads_save_to_one_path_and_a_whole_file_is_there) {
    SmallModel small(test::llama, test::q8_0, 1);
    const test::TemporaryFile file("");
    const std::vector<int32_t> tokens = test::some_tokens(140);
    const dca_session_options options = test::session_options(200);
    CHECK(in_threads(4, [&](int) {
        dca_session* session = nullptr;
        if (dca_session_create(small.model, &options, &session) != DCA_OK) return false;
        bool good = dca_session_eval(session, tokens.data(), tokens.size(), DCA_LOGITS_NONE, nullptr, 0) == DCA_OK;
        for (int round = 0; round < kRounds; ++round) {
            good = good && dca_session_save(session, file.path().c_str()) == DCA_OK;
            good = good && dca_session_load(session, file.path().c_str()) == DCA_OK;
        }
        dca_session_free(session);
        return good;
    }));
}

TEST(threads_share_a_fingerprint_that_is_made_once) {
    SmallModel small(test::llama, test::q8_0, 1);
    const test::TemporaryFile one(""), other("");
    const dca_session_options options = test::session_options(64);
    CHECK(in_threads(2, [&](int index) {
        dca_session* session = nullptr;
        if (dca_session_create(small.model, &options, &session) != DCA_OK) return false;
        const std::string& path = index == 0 ? one.path() : other.path();
        const bool good = dca_session_save(session, path.c_str()) == DCA_OK && dca_session_load(session, path.c_str()) == DCA_OK;
        dca_session_free(session);
        return good;
    }));
}
