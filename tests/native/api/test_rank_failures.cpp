// A rank that fails does not leave the others waiting: the step ends with its message, and the next one answers as ever.
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "faults/nth_failure.h"
#include "faults/small_model.h"

namespace {

const std::vector<int32_t> prompt = test::some_tokens(21);

struct SharedModel {
    SharedModel(const char* device, test::Family family, test::Format format) : file(test::small_model(family, format)) {
        dca_model_options options{};
        options.size = sizeof options;
        dca_model_options_default(&options);
        options.device = device;
        options.threads = 2;
        CHECK(dca_model_load(file.path().c_str(), &options, &model) == DCA_OK);
    }
    ~SharedModel() { dca_model_free(model); }

    test::TemporaryFile file;
    dca_model* model = nullptr;
};

}  // namespace

TEST(a_step_that_fails_on_a_rank_fails_on_all_and_the_next_one_does_not) {
    for (const auto& [device, family, format] :
         {std::tuple{"cpu/2", test::llama_with_scheme, test::f32}, {"cpu/2", test::qwen2moe, test::f32}}) {
        const SharedModel shared(device, family, format);
        if (shared.model == nullptr) continue;
        const std::vector<float> expected = test::logits_of(shared.model, prompt);
        const dca_session_options options = test::session_options(64);
        dca_session* session = nullptr;
        CHECK(dca_session_create(shared.model, &options, &session) == DCA_OK);
        std::vector<float> logits(fuzz::n_vocab);
        const auto eval = [&] {
            return dca_session_eval(session, prompt.data(), prompt.size(), DCA_LOGITS_LAST, logits.data(), logits.size());
        };
        const auto check = [&](dca_status status) {
            if (status != DCA_OK) CHECK(std::string(dca_last_error()).find("another rank") == std::string::npos);
            if (status != DCA_OK) CHECK(eval() == DCA_OK);
            CHECK(logits == expected);
            CHECK(dca_session_truncate(session, 0) == DCA_OK);
        };
        for (const fault::Then then : {fault::Then::recovers, fault::Then::stays}) {
            CHECK(fault::every_failure(fault::device, then, true, eval, check) > 20u);
            fault::every_failure(fault::allocation, then, true, eval, check);
        }
        dca_session_free(session);
    }
}

TEST(making_an_engine_that_fails_on_a_rank_leaves_nothing) {
    const SharedModel shared("cpu/2", test::llama, test::f16);
    const std::vector<float> expected = test::logits_of(shared.model, prompt);
    const dca_session_options options = test::session_options(64);
    dca_session* session = nullptr;
    fault::every_failure(
        fault::device, fault::Then::recovers, false, [&] { return dca_session_create(shared.model, &options, &session); },
        [&](dca_status) {
            dca_session_free(std::exchange(session, nullptr));
            CHECK(test::logits_of(shared.model, prompt) == expected);
        });
}
