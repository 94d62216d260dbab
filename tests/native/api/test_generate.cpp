// Generation in C, against the loop of single steps that it stands for.
#include <algorithm>
#include <string>
#include <vector>

#include "check.h"
#include "dca_text.h"
#include "faults/nth_failure.h"
#include "faults/small_model.h"

namespace {

using Ids = std::vector<int32_t>;

struct OpenSession {
    explicit OpenSession(dca_model* model, uint32_t context = 64) {
        const dca_session_options options = test::session_options(context);
        CHECK(dca_session_create(model, &options, &handle) == DCA_OK);
    }
    ~OpenSession() { dca_session_free(handle); }
    OpenSession(const OpenSession&) = delete;
    OpenSession& operator=(const OpenSession&) = delete;

    dca_session* handle = nullptr;
};

dca_generation generation(const Ids& prompt, size_t max_tokens) {
    dca_generation all{};
    all.size = sizeof all;
    dca_generation_default(&all);
    all.prompt = prompt.data();
    all.n_prompt = prompt.size();
    all.max_tokens = max_tokens;
    return all;
}

dca_sampling some_sampling() {
    dca_sampling sampling{};
    sampling.size = sizeof sampling;
    dca_sampling_default(&sampling);
    sampling.temperature = 1.5f;
    sampling.repeat_penalty = 1.2f;
    sampling.seed = 9;
    return sampling;
}

/// One token a call, with the choice made from logits by dca_sample.
Ids chosen_one_by_one(dca_model* model, const Ids& prompt, size_t count, const dca_sampling& sampling) {
    const OpenSession session(model);
    std::vector<float> logits(fuzz::n_vocab);
    Ids history = prompt, next = prompt, chosen;
    while (chosen.size() < count) {
        dca_choice choice{};
        CHECK(dca_session_eval(session.handle, next.data(), next.size(), DCA_LOGITS_LAST, logits.data(), logits.size()) == DCA_OK);
        CHECK(dca_sample(logits.data(), logits.size(), history.data(), history.size(), &sampling, &choice) == DCA_OK);
        next = {choice.token};
        history.push_back(choice.token);
        chosen.push_back(choice.token);
    }
    return chosen;
}

uint32_t length_of(const dca_session* session) {
    dca_session_info info{};
    info.size = sizeof info;
    CHECK(dca_session_get_info(session, &info) == DCA_OK);
    return info.length;
}

const Ids prompt = test::some_tokens(5);

}  // namespace

TEST(generate_is_a_loop_of_steps) {
    const test::SmallModel small(test::llama_with_scheme, test::f32);
    const dca_sampling sampling = some_sampling();
    const Ids expected = chosen_one_by_one(small.model, prompt, 12, sampling);
    const OpenSession session(small.model);
    Ids tokens(12, -1);
    dca_generation all = generation(prompt, tokens.size());
    all.sampling = &sampling;
    all.tokens = tokens.data();
    CHECK(dca_session_generate(session.handle, &all) == DCA_OK);
    CHECK(tokens == expected);
    CHECK(all.n_tokens == 12u);
    CHECK(all.finish == DCA_FINISH_LENGTH);
    CHECK(length_of(session.handle) == prompt.size() + 11);  // the last one is not appended
}

TEST(generate_ends_at_a_stop_token) {
    const test::SmallModel small(test::llama, test::f32);
    const dca_sampling sampling = some_sampling();
    const Ids expected = chosen_one_by_one(small.model, prompt, 12, sampling);
    const int32_t stop[] = {31, expected[4]};
    const auto first = std::ranges::find_if(expected, [&](int32_t token) { return token == stop[0] || token == stop[1]; });
    const auto count = static_cast<size_t>(first - expected.begin()) + 1;
    const OpenSession session(small.model);
    Ids seen;
    dca_generation all = generation(prompt, 12);
    all.sampling = &sampling;
    all.stop = stop;
    all.n_stop = 2;
    all.user = &seen;
    all.on_token = [](int32_t token, void* user) -> int32_t {
        static_cast<Ids*>(user)->push_back(token);
        return 0;
    };
    CHECK(dca_session_generate(session.handle, &all) == DCA_OK);
    CHECK(all.finish == DCA_FINISH_STOP);
    CHECK(all.n_tokens == count);
    CHECK((seen == Ids(expected.begin(), first)));  // not the stop token
}

TEST(generate_is_cancelled_by_its_callback) {
    const test::SmallModel small(test::llama, test::f32);
    const OpenSession session(small.model);
    int left = 3;
    dca_generation all = generation(prompt, 12);
    all.user = &left;
    all.on_token = [](int32_t, void* user) -> int32_t { return --*static_cast<int*>(user) == 0; };
    CHECK(dca_session_generate(session.handle, &all) == DCA_OK);
    CHECK(all.finish == DCA_FINISH_CANCELLED);
    CHECK(all.n_tokens == 3u);
    CHECK(length_of(session.handle) == prompt.size() + 2);
}

TEST(generate_ends_where_the_context_is_full) {
    const test::SmallModel small(test::llama, test::f32);
    const OpenSession session(small.model, 8);
    dca_generation all = generation(prompt, 100);
    CHECK(dca_session_generate(session.handle, &all) == DCA_OK);
    CHECK(all.finish == DCA_FINISH_LENGTH);
    CHECK(all.n_tokens == 4u);  // three more fit, and the one chosen after them is not appended
    CHECK(length_of(session.handle) == 8u);
    dca_generation more = generation(prompt, 1);
    CHECK(dca_session_generate(session.handle, &more) == DCA_ERROR_CONTEXT);
    CHECK(more.n_tokens == 0u);
    CHECK(more.finish == -1);
    CHECK(length_of(session.handle) == 8u);
}

TEST(generate_for_many_sequences_is_the_same_for_each) {
    const test::SmallModel small(test::llama_with_scheme, test::f32);
    const dca_sampling sampling = some_sampling();
    const dca_engine_options options = test::engine_options(1024);
    dca_engine* engine = nullptr;
    CHECK(dca_engine_create(small.model, &options, &engine) == DCA_OK);
    const Ids prompts[] = {test::some_tokens(3), {4}, {9, 2}};
    const size_t counts[] = {5, 9, 2};
    Ids tokens[3];
    dca_generation all[3];
    dca_generation* given[3];
    for (size_t i = 0; i < 3; ++i) {
        tokens[i].resize(counts[i]);
        all[i] = generation(prompts[i], counts[i]);
        all[i].sampling = &sampling;
        all[i].tokens = tokens[i].data();
        given[i] = &all[i];
        CHECK(dca_sequence_create(engine, &all[i].sequence) == DCA_OK);
    }
    CHECK(dca_engine_generate(engine, given, 3) == DCA_OK);
    for (size_t i = 0; i < 3; ++i) {
        CHECK(all[i].n_tokens == counts[i]);
        CHECK(tokens[i] == chosen_one_by_one(small.model, prompts[i], counts[i], sampling));
        CHECK(dca_sequence_length(all[i].sequence) == prompts[i].size() + counts[i] - 1);
    }
    CHECK(dca_engine_generate(engine, nullptr, 0) == DCA_OK);
    given[1] = given[0];
    CHECK(dca_engine_generate(engine, given, 2) == DCA_ERROR_ARGUMENT);
    for (dca_generation& one : all) dca_sequence_free(one.sequence);
    dca_engine_free(engine);
}

TEST(generate_goes_on_where_the_pool_has_no_room_for_all) {
    const test::SmallModel small(test::llama, test::f32);
    const dca_engine_options options = test::engine_options(256);  // two pages
    dca_engine* engine = nullptr;
    CHECK(dca_engine_create(small.model, &options, &engine) == DCA_OK);
    const Ids nearly = test::some_tokens(126), full = test::some_tokens(120);
    dca_generation first = generation(nearly, 8), last = generation(full, 200);
    dca_generation* given[] = {&first, &last};
    CHECK(dca_sequence_create(engine, &first.sequence) == DCA_OK);
    CHECK(dca_sequence_create(engine, &last.sequence) == DCA_OK);
    CHECK(dca_engine_generate(engine, given, 2) == DCA_OK);
    CHECK(last.finish == DCA_FINISH_LENGTH);  // gave way, and its pages stay its own
    CHECK(last.n_tokens == 3u);
    CHECK(first.finish == DCA_FINISH_LENGTH);
    CHECK(first.n_tokens == 3u);
    dca_sequence_free(last.sequence);
    const Ids one_more{5};
    dca_generation again = generation(one_more, 8);
    again.sequence = first.sequence;
    given[0] = &again;
    CHECK(dca_engine_generate(engine, given, 1) == DCA_OK);
    CHECK(again.n_tokens == 8u);
    dca_sequence_free(first.sequence);
    dca_engine_free(engine);
}

TEST(generate_checks_its_arguments) {
    const test::SmallModel small(test::llama, test::f32);
    const OpenSession session(small.model);
    dca_generation all = generation(prompt, 0);
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    all = generation(prompt, 1);
    CHECK(dca_session_generate(nullptr, &all) == DCA_ERROR_ARGUMENT);
    CHECK(dca_session_generate(session.handle, nullptr) == DCA_ERROR_ARGUMENT);
    all.n_prompt = 0;
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    all.n_prompt = 1;
    all.prompt = nullptr;
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    all = generation(prompt, 1);
    all.n_stop = 1;
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    all = generation(prompt, 1);
    all.size = 9;
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    const uint32_t nobody[(fuzz::n_vocab + 31) / 32] = {};
    dca_sampling sampling = some_sampling();
    sampling.allowed = nobody;
    all = generation(prompt, 1);
    all.sampling = &sampling;
    CHECK(dca_session_generate(session.handle, &all) == DCA_ERROR_ARGUMENT);
    CHECK(std::string(dca_last_error()).find("no token can be chosen") == 0);
}

TEST(nth_failure_of_generating) {
    const test::SmallModel small(test::llama_with_scheme, test::q8_0);
    const fault::NothingStays after;
    const OpenSession session(small.model);
    Ids tokens(6), expected;
    const auto generate = [&] {
        dca_generation all = generation(prompt, tokens.size());
        all.tokens = tokens.data();
        return dca_session_generate(session.handle, &all);
    };
    CHECK(generate() == DCA_OK);
    expected = tokens;
    CHECK(dca_session_truncate(session.handle, 0) == DCA_OK);
    fault::every_failure_of_any_kind(true, generate, [&](dca_status status) {
        if (status != DCA_OK) {
            CHECK(dca_session_truncate(session.handle, 0) == DCA_OK);
            CHECK(generate() == DCA_OK);
        }
        CHECK(tokens == expected);
        CHECK(dca_session_truncate(session.handle, 0) == DCA_OK);
    });
}
