// Every allocation, system call and device call of load, sessions and engines fails once: a status with a message,
// nothing left behind, and the next call answers as if nothing had been.
#include <string>
#include <vector>

#include "faults/nth_failure.h"
#include "faults/small_model.h"

using fault::every_failure_of_any_kind;
using fault::NothingStays;
using test::SmallModel;

namespace {

const std::vector<int32_t> prompt = test::some_tokens(21);

uint32_t length_of(const dca_session* session) {
    dca_session_info info{};
    info.size = sizeof info;
    CHECK(dca_session_get_info(session, &info) == DCA_OK);
    return info.length;
}

uint32_t tokens_used(const dca_engine* engine) {
    dca_engine_info info{};
    info.size = sizeof info;
    CHECK(dca_engine_get_info(engine, &info) == DCA_OK);
    return info.tokens_used;
}

/// Loads a file with faults.
void load_with_faults(test::Family family, test::Format format, int threads, bool repack) {
    const test::TemporaryFile file(test::small_model(family, format));
    dca_model* model = nullptr;
    CHECK(test::load(file.path(), threads, repack, &model) == DCA_OK);
    const std::vector<float> expected = test::logits_of(model, prompt);
    dca_model_free(model);
    every_failure_of_any_kind(
        false, [&] { return test::load(file.path(), threads, repack, &model); },
        [&](dca_status status) {
            CHECK((model == nullptr) == (status != DCA_OK));
            if (status != DCA_OK) CHECK(test::load(file.path(), threads, repack, &model) == DCA_OK);
            CHECK(test::logits_of(model, prompt) == expected);
            dca_model_free(std::exchange(model, nullptr));
        });
}

/// A session on a small model.
struct OpenSession {
    explicit OpenSession(SmallModel& small, uint32_t context = 64) {
        const dca_session_options options = test::session_options(context);
        CHECK(dca_session_create(small.model, &options, &session) == DCA_OK);
    }
    ~OpenSession() { dca_session_free(session); }

    dca_session* session = nullptr;
};

/// An engine with two sequences that share a start.
struct OpenEngine {
    explicit OpenEngine(SmallModel& small) {
        const dca_engine_options options = test::engine_options(1024);
        CHECK(dca_engine_create(small.model, &options, &engine) == DCA_OK);
        CHECK(dca_sequence_create(engine, &a) == DCA_OK);
        const dca_feed feed{a, prompt.data(), prompt.size(), DCA_LOGITS_NONE, nullptr, 0};
        CHECK(dca_engine_eval(engine, &feed, 1) == DCA_OK);
        CHECK(dca_sequence_fork(a, &b) == DCA_OK);
    }
    ~OpenEngine() {
        dca_sequence_free(b);
        dca_sequence_free(a);
        CHECK(tokens_used(engine) == 0u);
        dca_engine_free(engine);
    }
    void back_to_the_start() {
        CHECK(dca_sequence_truncate(a, static_cast<uint32_t>(prompt.size())) == DCA_OK);
        dca_sequence_free(b);
        CHECK(dca_sequence_fork(a, &b) == DCA_OK);
    }

    dca_engine* engine = nullptr;
    dca_sequence *a = nullptr, *b = nullptr;
};

}  // namespace

TEST(nth_failure_of_loading) {
    load_with_faults(test::llama_with_scheme, test::f32, 1, true);
    load_with_faults(test::qwen2moe, test::q4_k, 1, true);
    load_with_faults(test::phi3, test::q8_0, 1, false);
}

TEST(nth_failure_of_loading_with_threads) { load_with_faults(test::llama, test::q8_0, 2, true); }

TEST(nth_failure_of_making_a_session) {
    SmallModel small(test::qwen2moe, test::q8_0);
    const NothingStays after;
    const std::vector<float> expected = test::logits_of(small.model, prompt);
    dca_session_options options = test::session_options(64);
    for (const int32_t cache_type : {DCA_CACHE_F16, DCA_CACHE_Q8}) {
        options.cache_type = cache_type;
        dca_session* session = nullptr;
        every_failure_of_any_kind(
            false, [&] { return dca_session_create(small.model, &options, &session); },
            [&](dca_status status) {
                CHECK((session == nullptr) == (status != DCA_OK));
                dca_session_free(std::exchange(session, nullptr));
                CHECK(test::logits_of(small.model, prompt) == expected);
            });
    }
}

TEST(nth_failure_of_evaluating) {
    for (const auto& [family, format, threads] :
         {std::tuple{test::llama_with_scheme, test::f16, 1}, {test::qwen2moe, test::q8_0, 1}, {test::llama_with_scheme, test::q8_0, 2}}) {
        SmallModel small(family, format, threads);
        const NothingStays after;
        const std::vector<float> expected = test::logits_of(small.model, prompt);
        const OpenSession open(small);
        std::vector<float> logits(fuzz::n_vocab);
        const auto eval = [&] {
            return dca_session_eval(open.session, prompt.data(), prompt.size(), DCA_LOGITS_LAST, logits.data(), logits.size());
        };
        every_failure_of_any_kind(true, eval, [&](dca_status status) {
            if (status != DCA_OK) {
                CHECK(length_of(open.session) == 0u);
                CHECK(eval() == DCA_OK);
            }
            CHECK(length_of(open.session) == prompt.size());
            CHECK(logits == expected);
            CHECK(dca_session_truncate(open.session, 0) == DCA_OK);
        });
    }
}

TEST(nth_failure_of_collecting_squares) {
    SmallModel small(test::qwen2moe, test::q8_0);
    std::vector<float> logits(fuzz::n_vocab);
    const std::vector<float> expected = test::logits_of(small.model, prompt);
    const dca_session_options options = test::session_options(64);
    const auto whole_life = [&] {
        dca_session* session = nullptr;
        dca_status status = dca_session_create(small.model, &options, &session);
        if (status == DCA_OK) status = dca_session_collect_squares(session);
        if (status == DCA_OK)
            status = dca_session_eval(session, prompt.data(), prompt.size(), DCA_LOGITS_LAST, logits.data(), logits.size());
        dca_session_free(session);
        return status;
    };
    every_failure_of_any_kind(false, whole_life, [&](dca_status status) {
        if (status != DCA_OK) CHECK(whole_life() == DCA_OK);
        CHECK(logits == expected);
    });
}

TEST(nth_failure_of_scoring) {
    SmallModel small(test::llama_with_scheme, test::q8_0);
    const NothingStays after;
    const OpenSession open(small);
    std::vector<float> nll(prompt.size() - 1), expected;
    const auto score = [&] { return dca_session_score(open.session, prompt.data(), prompt.size(), nll.data(), nll.size()); };
    CHECK(score() == DCA_OK);
    expected = nll;
    CHECK(dca_session_truncate(open.session, 0) == DCA_OK);
    every_failure_of_any_kind(true, score, [&](dca_status status) {
        if (status != DCA_OK) CHECK(score() == DCA_OK);
        CHECK(nll == expected);
        CHECK(dca_session_truncate(open.session, 0) == DCA_OK);
    });
}

TEST(nth_failure_of_copying_a_prefix) {
    SmallModel small(test::llama_with_scheme, test::f16);
    const NothingStays after;
    const std::vector<int32_t> whole = test::some_tokens(200), more = test::some_tokens(3);
    std::vector<int32_t> both = whole;
    both.insert(both.end(), more.begin(), more.end());
    const std::vector<float> expected = test::logits_of(small.model, both, 300);
    const OpenSession from(small, 300), to(small, 300);
    std::vector<float> logits(fuzz::n_vocab);
    CHECK(dca_session_eval(from.session, whole.data(), whole.size(), DCA_LOGITS_NONE, nullptr, 0) == DCA_OK);
    CHECK(dca_session_eval(to.session, both.data(), both.size(), DCA_LOGITS_NONE, nullptr, 0) == DCA_OK);
    const auto copy = [&] { return dca_session_copy_prefix(to.session, from.session, static_cast<uint32_t>(whole.size())); };
    every_failure_of_any_kind(true, copy, [&](dca_status status) {
        if (status == DCA_ERROR_DEVICE) {
            CHECK(length_of(to.session) == 0u);
        } else if (status != DCA_OK) {
            CHECK(length_of(to.session) == both.size());
        }
        if (status != DCA_OK) CHECK(copy() == DCA_OK);
        CHECK(dca_session_eval(to.session, more.data(), more.size(), DCA_LOGITS_LAST, logits.data(), logits.size()) == DCA_OK);
        CHECK(logits == expected);
    });
}

TEST(nth_failure_of_making_an_engine_and_its_sequences) {
    SmallModel small(test::llama_with_scheme, test::f16);
    const NothingStays after;
    const dca_engine_options options = test::engine_options(1024);
    dca_engine* engine = nullptr;
    every_failure_of_any_kind(
        false, [&] { return dca_engine_create(small.model, &options, &engine); },
        [&](dca_status status) {
            CHECK((engine == nullptr) == (status != DCA_OK));
            dca_engine_free(std::exchange(engine, nullptr));
        });
    const OpenEngine open(small);
    dca_sequence* sequence = nullptr;
    const auto gone_again = [&](dca_status status) {
        CHECK((sequence == nullptr) == (status != DCA_OK));
        dca_sequence_free(std::exchange(sequence, nullptr));
        CHECK(tokens_used(open.engine) == 128u);
    };
    every_failure_of_any_kind(false, [&] { return dca_sequence_create(open.engine, &sequence); }, gone_again);
    every_failure_of_any_kind(false, [&] { return dca_sequence_fork(open.a, &sequence); }, gone_again);
}

TEST(nth_failure_of_a_step_of_many_sequences) {
    SmallModel small(test::llama_with_scheme, test::q8_0);
    const NothingStays after;
    OpenEngine open(small);
    const std::vector<int32_t> longer = test::some_tokens(150);  // into a second page, and a copy of the shared first one
    std::vector<float> of_a(fuzz::n_vocab), of_b(fuzz::n_vocab), expected_a, expected_b;
    const auto eval = [&] {
        const dca_feed feeds[] = {{open.a, prompt.data(), 2, DCA_LOGITS_LAST, of_a.data(), of_a.size()},
                                  {open.b, longer.data(), longer.size(), DCA_LOGITS_LAST, of_b.data(), of_b.size()}};
        return dca_engine_eval(open.engine, feeds, 2);
    };
    CHECK(eval() == DCA_OK);
    expected_a = of_a;
    expected_b = of_b;
    open.back_to_the_start();
    every_failure_of_any_kind(true, eval, [&](dca_status status) {
        if (status != DCA_OK) {
            CHECK(dca_sequence_length(open.a) == prompt.size());
            CHECK(dca_sequence_length(open.b) == prompt.size());
            CHECK(tokens_used(open.engine) == 128u);
            CHECK(eval() == DCA_OK);
        }
        CHECK(of_a == expected_a);
        CHECK(of_b == expected_b);
        open.back_to_the_start();
    });
}

TEST(nth_failure_of_sampling) {
    for (const int threads : {1, 2}) {
        SmallModel small(test::llama_with_scheme, test::q8_0, threads);
        const NothingStays after;
        OpenEngine open(small);
        std::vector<dca_token_value> likeliest(5);
        const dca_token_value bias{3, 0.5f};
        dca_sampling sampling{};
        sampling.size = sizeof sampling;
        dca_sampling_default(&sampling);
        sampling.temperature = 0.8f;
        sampling.top_k = 9;
        sampling.top_p = 0.9f;
        sampling.repeat_penalty = 1.1f;
        sampling.biases = &bias;
        sampling.n_biases = 1;
        sampling.logprob = 1;
        sampling.top_logprobs = static_cast<uint32_t>(likeliest.size());
        sampling.top = likeliest.data();
        const dca_sampling* const samplings[] = {&sampling, &sampling};
        dca_choice choices[2] = {};
        const auto sample = [&] {
            const dca_feed feeds[] = {{open.a, prompt.data(), 1, DCA_LOGITS_NONE, nullptr, 0},
                                      {open.b, prompt.data(), 3, DCA_LOGITS_NONE, nullptr, 0}};
            return dca_engine_sample(open.engine, feeds, samplings, 2, choices);
        };
        CHECK(sample() == DCA_OK);
        const dca_choice expected[] = {choices[0], choices[1]};
        open.back_to_the_start();
        every_failure_of_any_kind(true, sample, [&](dca_status status) {
            if (status != DCA_OK) {
                CHECK(dca_sequence_length(open.a) == prompt.size());
                CHECK(sample() == DCA_OK);
            }
            for (int i = 0; i < 2; ++i) {
                CHECK(choices[i].token == expected[i].token);
                CHECK(choices[i].logprob == expected[i].logprob);
            }
            open.back_to_the_start();
        });
    }
}

TEST(nth_failure_of_sampling_from_given_logits) {
    const std::vector<float> logits{0.5f, 2.0f, -1.0f, 1.9f};
    const int32_t history[] = {1, 1, 3};
    dca_token_value top[2];
    dca_sampling sampling{};
    sampling.size = sizeof sampling;
    dca_sampling_default(&sampling);
    sampling.temperature = 1.0f;
    sampling.top_p = 0.95f;
    sampling.presence_penalty = 0.1f;
    sampling.top_logprobs = 2;
    sampling.top = top;
    dca_choice choice{};
    const auto sample = [&] { return dca_sample(logits.data(), logits.size(), history, 3, &sampling, &choice); };
    CHECK(sample() == DCA_OK);
    const int32_t expected = choice.token;
    every_failure_of_any_kind(false, sample, [&](dca_status status) {
        if (status != DCA_OK) CHECK(sample() == DCA_OK);
        CHECK(choice.token == expected);
    });
}

TEST(nth_failure_of_converting_blocks) {
    const std::vector<float> values(4 * 65536, 127.0f);  // exact in Q8_0
    std::vector<std::byte> blocks(values.size() / 32 * 34);
    std::vector<float> back(values.size());
    for (const int threads : {1, 3}) {
        const auto both = [&] {
            const dca_status status = dca_encode(8, values.data(), values.size(), values.size(), threads, blocks.data(), blocks.size());
            return status != DCA_OK ? status : dca_decode(8, blocks.data(), blocks.size(), back.size(), threads, back.data());
        };
        every_failure_of_any_kind(false, both, [&](dca_status status) {
            if (status != DCA_OK) CHECK(both() == DCA_OK);
            CHECK(back == values);
        });
    }
}

TEST(nth_failure_of_an_error_is_an_error_too) {
    dca_model* model = nullptr;
    dca_block_format format{};
    for (const fault::Then then : {fault::Then::recovers, fault::Then::stays}) {
        for (uint64_t n = 1, struck = 1; struck != 0; ++n) {
            const fault::Armed armed(fault::allocation, n, then);
            const dca_status loaded = dca_model_load("/nowhere/model.gguf", nullptr, &model);
            CHECK(loaded == DCA_ERROR_IO || loaded == DCA_ERROR_MEMORY);
            CHECK(std::strlen(dca_last_error()) != 0);
            CHECK(dca_block_format_get(999, &format) != DCA_OK);
            CHECK(std::strlen(dca_last_error()) != 0);
            struck = armed.struck();
        }
    }
}

TEST(a_device_lost_in_mid_step_says_so_until_it_is_back) {
    SmallModel small(test::llama_with_scheme, test::q8_0);
    const NothingStays after;
    const std::vector<float> expected = test::logits_of(small.model, prompt);
    const OpenSession one(small), other(small);
    std::vector<float> logits(fuzz::n_vocab);
    const auto eval = [&](dca_session* session) {
        return dca_session_eval(session, prompt.data(), prompt.size(), DCA_LOGITS_LAST, logits.data(), logits.size());
    };
    {
        const fault::Armed lost(fault::device, 5, fault::Then::stays);
        for (dca_session* session : {one.session, other.session, one.session}) {
            CHECK(eval(session) == DCA_ERROR_DEVICE);
            CHECK(std::string(dca_last_error()) == "the device was lost");
            CHECK(length_of(session) == 0u);
        }
        dca_session* third = nullptr;
        CHECK(dca_session_create(small.model, nullptr, &third) == DCA_ERROR_DEVICE);
        CHECK(third == nullptr);
    }
    for (dca_session* session : {one.session, other.session}) {
        CHECK(eval(session) == DCA_OK);
        CHECK(logits == expected);
    }
}
