// The C API of generation: steps of an engine, each of the token chosen in the one before.
#include <algorithm>
#include <memory>
#include <vector>

#include "core/api/sampling.h"
#include "core/api/support.h"
#include "dca_text.h"

namespace dca {

namespace {

constexpr dca_generation kDefaultGeneration{.size = sizeof(dca_generation),
                                            .sequence = nullptr,
                                            .prompt = nullptr,
                                            .n_prompt = 0,
                                            .max_tokens = 256,
                                            .stop = nullptr,
                                            .n_stop = 0,
                                            .sampling = nullptr,
                                            .on_token = nullptr,
                                            .user = nullptr,
                                            .tokens = nullptr,
                                            .n_tokens = 0,
                                            .finish = -1};

/// A caller's dca_generation while it goes on.
class Generation {
public:
    Generation(dca_generation* given, Sequence& sequence) : given_(given), all_(merged(kDefaultGeneration, given)), sequence_(&sequence) {
        if (all_.n_prompt != 0) needed(all_.prompt, "prompt");
        if (all_.n_stop != 0) needed(all_.stop, "stop");
        if (all_.max_tokens == 0) fail(DCA_ERROR_ARGUMENT, "max_tokens is 0, must be at least 1");
        sampling_.size = sizeof sampling_;
        dca_sampling_default(&sampling_);
        all_.n_tokens = 0;
        all_.finish = -1;
        answer();
    }

    bool goes_on() const noexcept { return all_.finish < 0; }
    bool has_room(uint32_t tokens) const noexcept { return sequence_->length() < tokens; }

    Feed feed() const noexcept {
        const std::span<const int32_t> prompt{all_.prompt, all_.n_prompt};
        return {.sequence = sequence_, .tokens = all_.n_tokens == 0 ? prompt : std::span<const int32_t>{&last_, 1}, .out = {}};
    }
    const dca_sampling& sampling() const noexcept { return all_.sampling == nullptr ? sampling_ : *all_.sampling; }

    void chose(int32_t token) {
        if (token < 0) fail(DCA_ERROR_ARGUMENT, "no token can be chosen: none is allowed, or no logit is a number");
        last_ = token;
        if (all_.tokens != nullptr) all_.tokens[all_.n_tokens] = token;
        ++all_.n_tokens;
        if (std::find(all_.stop, all_.stop + all_.n_stop, token) != all_.stop + all_.n_stop) {
            all_.finish = DCA_FINISH_STOP;
        } else if (all_.on_token != nullptr && all_.on_token(token, all_.user) != 0) {
            all_.finish = DCA_FINISH_CANCELLED;
        } else if (all_.n_tokens == all_.max_tokens) {
            all_.finish = DCA_FINISH_LENGTH;
        }
        answer();
    }

    void end_for_room() noexcept {
        all_.finish = DCA_FINISH_LENGTH;
        answer();
    }

private:
    /// What the caller may know so far.
    void answer() noexcept {
        const size_t size = given_->size;
        dca_generation out = all_;
        out.size = size;
        std::memcpy(given_, &out, std::min(size, sizeof out));
    }

    dca_generation* given_;
    dca_generation all_;
    dca_sampling sampling_{};  // where the caller has none
    Sequence* sequence_;
    int32_t last_ = -1;
};

/// Appends what each goes on from, all in one step or more, and chooses the next token of each.
void step(Engine& engine, std::span<Generation* const> going) {
    std::vector<Feed> feeds;
    std::vector<SamplingCall> calls(going.size());
    std::vector<SampleRequest> requests;
    for (size_t i = 0; i < going.size(); ++i) {
        feeds.push_back(going[i]->feed());
        requests.push_back(
            calls[i].request(going[i]->sampling(), feeds[i].sequence->tokens(), feeds[i].tokens, engine.model().hparams().n_vocab));
    }
    engine.sample(feeds, requests);
    for (size_t i = 0; i < going.size(); ++i) going[i]->chose(calls[i].answer(requests[i]).token);
}

void generate(Engine& engine, std::span<Generation> all) {
    std::vector<Generation*> going;
    for (Generation& each : all) going.push_back(&each);
    for (bool prompts = true; !going.empty(); prompts = false) {
        try {
            step(engine, going);
        } catch (const Error& error) {
            if (prompts || error.status() != DCA_ERROR_CONTEXT) throw;
            // The pool is full: whose sequence alone fills it, else who came last.
            const auto full = std::ranges::find_if(going, [&](const Generation* each) { return !each->has_room(engine.tokens()); });
            (full == going.end() ? going.back() : *full)->end_for_room();
        }
        std::erase_if(going, [](const Generation* each) { return !each->goes_on(); });
    }
}

}  // namespace
}  // namespace dca

using dca::guarded;
using dca::needed;

void dca_generation_default(dca_generation* generation) { dca::fill_default(generation, dca::kDefaultGeneration); }

dca_status dca_session_generate(dca_session* session, dca_generation* generation) {
    return guarded([&] {
        dca::Session& runs = needed(session, "session").session;
        dca::Generation one(&needed(generation, "generation"), runs.sequence());
        dca::generate(runs.engine(), {&one, 1});
    });
}

dca_status dca_engine_generate(dca_engine* engine, dca_generation* const* generations, size_t n) {
    return guarded([&] {
        dca::Engine& runs = needed(engine, "engine").owned->engine;
        if (n != 0) needed(generations, "generations");
        std::vector<dca::Generation> all;
        all.reserve(n);
        for (size_t i = 0; i < n; ++i) {
            dca_generation* given = &needed(generations[i], "generation");
            all.emplace_back(given, dca::sequence_of(dca::merged(dca::kDefaultGeneration, given).sequence));
        }
        dca::generate(runs, all);
    });
}
