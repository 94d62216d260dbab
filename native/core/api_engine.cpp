// The C API of engines and sequences, and of sequences in files.
#include <cmath>
#include <vector>

#include "core/api_support.h"
#include "core/sequence_file.h"

namespace dca {

namespace {

constexpr uint32_t most_top_logprobs = 1024;

constexpr dca_engine_options default_engine_options{.size = sizeof(dca_engine_options),
                                                    .tokens = 65536,
                                                    .attention = DCA_ATTENTION_AUTO,
                                                    .scheme = {},
                                                    .cache_type = DCA_CACHE_F16,
                                                    .max_rows = 0,
                                                    .progress = nullptr,
                                                    .user = nullptr,
                                                    .rope = DCA_ROPE_MODEL,
                                                    .rope_factor = 1.0f};

constexpr dca_sampling default_sampling{.size = sizeof(dca_sampling),
                                        .temperature = 0.0f,
                                        .top_k = 0,
                                        .top_p = 1.0f,
                                        .min_p = 0.0f,
                                        .repeat_penalty = 1.0f,
                                        .presence_penalty = 0.0f,
                                        .frequency_penalty = 0.0f,
                                        .penalty_window = 64,
                                        .seed = 0,
                                        .biases = nullptr,
                                        .n_biases = 0,
                                        .allowed = nullptr,
                                        .logprob = 0,
                                        .top_logprobs = 0,
                                        .top = nullptr};

Sequence& sequence_of(const dca_sequence* handle) { return *needed(handle, "sequence").sequence; }

std::vector<Feed> feeds_of(const dca_feed* feeds, size_t n, bool writes_logits, bool writes) {
    if (n != 0) needed(feeds, "feeds");
    std::vector<Feed> all;
    for (size_t i = 0; i < n; ++i) {
        const dca_feed& feed = feeds[i];
        if (feed.n != 0) needed(feed.tokens, "tokens");
        const int32_t which = writes_logits ? feed.which : int32_t{DCA_LOGITS_NONE};
        if (which < DCA_LOGITS_NONE || which > DCA_LOGITS_ALL)
            fail(DCA_ERROR_ARGUMENT, "which is ", which, ", must be one of dca_logits (0 to 2)");
        const bool written = writes_logits ? which != DCA_LOGITS_NONE : writes;
        if (written) needed(feed.out, "out");
        all.push_back(
            {&sequence_of(feed.sequence), {feed.tokens, feed.n}, static_cast<dca_logits>(which), {feed.out, written ? feed.capacity : 0}});
    }
    return all;
}

/// A caller's dca_sampling, checked, and what its spans point to.
struct Sampling {
    std::vector<TokenCount> occurring;
    std::vector<TokenBias> biases;

    SampleRequest request(const dca_sampling& s, const Feed& feed, uint32_t n_vocab) {
        const auto in_range = [](bool good, const char* name, float value, const char* wanted) {
            if (!good) fail(DCA_ERROR_ARGUMENT, name, " is ", value, ", must be ", wanted);
        };
        in_range(s.temperature >= 0.0f && std::isfinite(s.temperature), "temperature", s.temperature, "finite and at least 0");
        in_range(s.top_p > 0.0f && s.top_p <= 1.0f, "top_p", s.top_p, "above 0 and at most 1");
        in_range(s.min_p >= 0.0f && s.min_p <= 1.0f, "min_p", s.min_p, "from 0 to 1");
        in_range(s.repeat_penalty > 0.0f && std::isfinite(s.repeat_penalty), "repeat_penalty", s.repeat_penalty, "finite and above 0");
        in_range(std::isfinite(s.presence_penalty), "presence_penalty", s.presence_penalty, "finite");
        in_range(std::isfinite(s.frequency_penalty), "frequency_penalty", s.frequency_penalty, "finite");
        if (s.n_biases != 0) needed(s.biases, "biases");
        if (s.top_logprobs > most_top_logprobs)
            fail(DCA_ERROR_ARGUMENT, "top_logprobs is ", s.top_logprobs, ", must be at most ", most_top_logprobs);
        if (s.top_logprobs != 0) needed(s.top, "top");
        for (size_t i = 0; i < s.n_biases; ++i) {
            const auto [token, value] = s.biases[i];
            if (token < 0 || static_cast<uint32_t>(token) >= n_vocab) {
                fail(DCA_ERROR_ARGUMENT, "the bias of token ", token, ": must be a token from 0 to ", n_vocab - 1);
            }
            in_range(!std::isnan(value), "a bias", value, "a number");
            biases.push_back({token, value});
        }
        if (s.repeat_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f) count(feed, s.penalty_window);
        SampleRequest request;
        request.temperature = s.temperature;
        request.top_k = s.top_k;
        request.top_p = s.top_p;
        request.min_p = s.min_p;
        request.repeat_penalty = s.repeat_penalty;
        request.presence_penalty = s.presence_penalty;
        request.frequency_penalty = s.frequency_penalty;
        request.seed = s.seed;
        request.occurring = occurring;
        request.biases = biases;
        request.allowed = s.allowed;
        request.wants_logprob = s.logprob != 0;
        request.top_logprobs = s.top_logprobs;
        return request;
    }

private:
    /// The last `window` tokens of the sequence with what it is fed.
    void count(const Feed& feed, uint32_t window) {
        const std::span<const int32_t> held = feed.sequence->tokens();
        const size_t of_feed = std::min<size_t>(window, feed.tokens.size());
        const size_t of_held = std::min<size_t>(window - of_feed, held.size());
        std::vector<int32_t> recent(held.end() - static_cast<ptrdiff_t>(of_held), held.end());
        recent.insert(recent.end(), feed.tokens.end() - static_cast<ptrdiff_t>(of_feed), feed.tokens.end());
        std::ranges::sort(recent);
        for (const int32_t token : recent) {
            if (occurring.empty() || occurring.back().token != token) occurring.push_back({token, 0});
            ++occurring.back().count;
        }
    }
};

}  // namespace
}  // namespace dca

using dca::guarded;
using dca::needed;

void dca_engine_options_default(dca_engine_options* options) { dca::fill_default(options, dca::default_engine_options); }

dca_status dca_engine_create(dca_model* model, const dca_engine_options* options, dca_engine** engine) {
    return guarded([&] {
        needed(engine, "engine") = nullptr;
        const auto all = dca::merged(dca::default_engine_options, options);
        *engine = new dca_engine{dca::Engine(needed(model, "model").model, {.tokens = all.tokens,
                                                                            .attention = all.attention,
                                                                            .scheme = all.scheme,
                                                                            .cache_type = all.cache_type,
                                                                            .max_rows = all.max_rows,
                                                                            .progress = all.progress,
                                                                            .user = all.user,
                                                                            .rope = all.rope,
                                                                            .rope_factor = all.rope_factor,
                                                                            .room = "pool"})};
    });
}

void dca_engine_free(dca_engine* engine) { delete engine; }

dca_status dca_engine_get_info(const dca_engine* engine, dca_engine_info* info) {
    return guarded([&] { dca::fill(info, needed(engine, "engine").engine); });
}

dca_status dca_sequence_create(dca_engine* engine, dca_sequence** sequence) {
    return guarded([&] {
        needed(sequence, "sequence") = nullptr;
        *sequence = new dca_sequence{std::make_unique<dca::Sequence>(needed(engine, "engine").engine)};
    });
}

dca_status dca_sequence_fork(const dca_sequence* sequence, dca_sequence** fork) {
    return guarded([&] {
        needed(fork, "fork") = nullptr;
        *fork = new dca_sequence{dca::sequence_of(sequence).fork()};
    });
}

void dca_sequence_free(dca_sequence* sequence) { delete sequence; }

uint32_t dca_sequence_length(const dca_sequence* sequence) { return sequence == nullptr ? 0 : sequence->sequence->length(); }

const int32_t* dca_sequence_tokens(const dca_sequence* sequence) {
    return sequence == nullptr ? nullptr : sequence->sequence->tokens().data();
}

dca_status dca_sequence_truncate(dca_sequence* sequence, uint32_t length) {
    return guarded([&] { dca::sequence_of(sequence).truncate(length); });
}

dca_status dca_engine_eval(dca_engine* engine, const dca_feed* feeds, size_t n) {
    return guarded([&] { needed(engine, "engine").engine.eval(dca::feeds_of(feeds, n, true, true)); });
}

dca_status dca_engine_score(dca_engine* engine, const dca_feed* feeds, size_t n) {
    return guarded([&] { needed(engine, "engine").engine.score(dca::feeds_of(feeds, n, false, true)); });
}

void dca_sampling_default(dca_sampling* sampling) { dca::fill_default(sampling, dca::default_sampling); }

dca_status dca_engine_sample(dca_engine* engine, const dca_feed* feeds, const dca_sampling* const* samplings, size_t n,
                             dca_choice* choices) {
    return guarded([&] {
        dca::Engine& runs = needed(engine, "engine").engine;
        const std::vector<dca::Feed> all = dca::feeds_of(feeds, n, false, false);
        if (n != 0) needed(samplings, "samplings");
        if (n != 0) needed(choices, "choices");
        std::vector<dca::Sampling> kept(n);
        std::vector<dca::SampleRequest> requests;
        std::vector<dca_token_value*> tops;
        for (size_t i = 0; i < n; ++i) {
            const dca_sampling sampling = dca::merged(dca::default_sampling, &needed(samplings[i], "sampling"));
            requests.push_back(kept[i].request(sampling, all[i], runs.model().hparams().n_vocab));
            tops.push_back(sampling.top);
        }
        runs.sample(all, requests);
        for (size_t i = 0; i < n; ++i) {
            choices[i] = {requests[i].token, requests[i].logprob};
            for (size_t t = 0; t < requests[i].top.size(); ++t) tops[i][t] = {requests[i].top[t].token, requests[i].top[t].logprob};
        }
    });
}

dca_status dca_sequence_save(const dca_sequence* sequence, const char* path) {
    return guarded([&] { dca::save_sequence(dca::sequence_of(sequence), &needed(path, "path")); });
}

dca_status dca_sequence_load(dca_engine* engine, const char* path, dca_sequence** sequence) {
    return guarded([&] {
        needed(sequence, "sequence") = nullptr;
        *sequence = new dca_sequence{dca::load_sequence(needed(engine, "engine").engine, &needed(path, "path"))};
    });
}

const int32_t* dca_session_tokens(const dca_session* session) {
    return session == nullptr ? nullptr : session->session.sequence().tokens().data();
}

dca_status dca_session_save(const dca_session* session, const char* path) {
    return guarded([&] { dca::save_sequence(needed(session, "session").session.sequence(), &needed(path, "path")); });
}

dca_status dca_session_load(dca_session* session, const char* path) {
    return guarded([&] { needed(session, "session").session.load(&needed(path, "path")); });
}
