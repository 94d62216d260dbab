// The C API of engines and sequences, and of sequences in files.
#include <vector>

#include "core/api/sampling.h"
#include "core/api/support.h"
#include "core/engine/sequence_file.h"
#include "core/machine/available_memory.h"

namespace dca {

namespace {

constexpr dca_engine_options kDefaultEngineOptions{.size = sizeof(dca_engine_options),
                                                   .tokens = 65536,
                                                   .attention = DCA_ATTENTION_AUTO,
                                                   .scheme = {},
                                                   .cache_type = DCA_CACHE_F16,
                                                   .max_rows = 0,
                                                   .progress = nullptr,
                                                   .user = nullptr,
                                                   .rope = DCA_ROPE_MODEL,
                                                   .rope_factor = 1.0f,
                                                   .prefill = DCA_PREFILL_DENSE,
                                                   .alpha = 0.0f,
                                                   .sparse_from = kSparseFrom,
                                                   .border = {}};

Engine& engine_of(const dca_engine* handle) { return needed(handle, "engine").owned->engine; }

std::vector<Feed> feeds_of(const dca_feed* feeds, size_t n, bool writes_logits, bool writes) {
    if (n != 0) needed(feeds, "feeds");
    std::vector<Feed> all;
    for (size_t i = 0; i < n; ++i) {
        const dca_feed& feed = feeds[i];
        if (feed.n != 0) needed(feed.tokens, "tokens");
        const dca_logits which = writes_logits ? checked_logits(feed.which) : DCA_LOGITS_NONE;
        const bool written = writes_logits ? which != DCA_LOGITS_NONE : writes;
        if (written) needed(feed.out, "out");
        all.push_back({&sequence_of(feed.sequence), {feed.tokens, feed.n}, which, {feed.out, written ? feed.capacity : 0}});
    }
    return all;
}

}  // namespace
}  // namespace dca

using dca::guarded;
using dca::needed;

void dca_engine_options_default(dca_engine_options* options) { dca::fill_default(options, dca::kDefaultEngineOptions); }

dca_status dca_engine_create(dca_model* model, const dca_engine_options* options, dca_engine** engine) {
    return guarded([&] {
        needed(engine, "engine") = nullptr;
        const auto all = dca::merged(dca::kDefaultEngineOptions, options);
        const std::shared_ptr<dca::Model>& shared = needed(model, "model").model;
        const dca::EngineOptions wanted{.tokens = all.tokens,
                                        .attention = all.attention,
                                        .scheme = all.scheme,
                                        .border = all.border,
                                        .cache_type = all.cache_type,
                                        .max_rows = all.max_rows,
                                        .max_slices = 0,
                                        .progress = all.progress,
                                        .user = all.user,
                                        .rope = all.rope,
                                        .rope_factor = all.rope_factor,
                                        .one_sequence = false,
                                        .room = "pool",
                                        .prefill = dca::checked_prefill(*shared, all.prefill, all.alpha, all.sparse_from, false)};
        *engine = new dca_engine{std::shared_ptr<dca::OwnedEngine>(new dca::OwnedEngine{shared, dca::Engine(*shared, wanted)})};
    });
}

void dca_engine_free(dca_engine* engine) {
    if (engine != nullptr) engine->owned->freed = true;
    delete engine;
}

dca_status dca_engine_get_info(const dca_engine* engine, dca_engine_info* info) {
    return guarded([&] {
        dca::Engine& runs = dca::engine_of(engine);
        runs.look();
        dca::fill(info, runs);
    });
}

dca_status dca_engine_density(const dca_engine* engine, float* density, size_t capacity) {
    return guarded([&] {
        dca::Engine& runs = dca::engine_of(engine);
        dca::read_density(runs.model(), runs.executor(), {&needed(density, "density"), capacity});
    });
}

dca_status dca_sequence_create(dca_engine* engine, dca_sequence** sequence) {
    return guarded([&] {
        needed(sequence, "sequence") = nullptr;
        dca::Engine& runs = dca::engine_of(engine);
        *sequence = new dca_sequence{engine->owned, std::make_unique<dca::Sequence>(runs)};
    });
}

dca_status dca_sequence_fork(const dca_sequence* sequence, dca_sequence** fork) {
    return guarded([&] {
        needed(fork, "fork") = nullptr;
        dca::Sequence& original = dca::sequence_of(sequence);
        original.wake();
        auto copy = original.fork();
        *fork = new dca_sequence{sequence->owned, std::move(copy)};
    });
}

void dca_sequence_free(dca_sequence* sequence) { delete sequence; }

uint32_t dca_sequence_length(const dca_sequence* sequence) { return sequence == nullptr ? 0 : sequence->sequence->length(); }

const int32_t* dca_sequence_tokens(const dca_sequence* sequence) {
    return sequence == nullptr ? nullptr : sequence->sequence->tokens().data();
}

dca_status dca_sequence_truncate(dca_sequence* sequence, uint32_t length) {
    return guarded([&] {
        dca::Sequence& shortened = dca::sequence_of(sequence);
        shortened.wake();
        shortened.truncate(length);
    });
}

dca_status dca_sequence_sleep(dca_sequence* sequence) {
    return guarded([&] { dca::sequence_of(sequence).sleep(); });
}

dca_status dca_sequence_wake(dca_sequence* sequence) {
    return guarded([&] { dca::sequence_of(sequence).wake(); });
}

int dca_sequence_asleep(const dca_sequence* sequence) { return sequence != nullptr && sequence->sequence->asleep() ? 1 : 0; }

int dca_sequence_in_place(const dca_sequence* sequence) {
    int in_place = 0;
    static_cast<void>(guarded([&] { in_place = dca::sequence_of(sequence).in_place() ? 1 : 0; }));
    return in_place;
}

dca_status dca_engine_add_slots(dca_engine* engine, uint32_t count, uint32_t* slots) {
    return guarded([&] {
        dca::Engine& owner = dca::engine_of(engine);
        const uint32_t all = owner.slots().add(owner.cache(), count);
        if (slots != nullptr) *slots = all;
    });
}

dca_status dca_sequence_park_pages(const dca_sequence* sequence, uint32_t first, const uint32_t* slots, size_t n) {
    return guarded([&] {
        if (n != 0) needed(slots, "slots");
        dca::sequence_of(sequence).park(first, {slots, n});
    });
}

dca_status dca_sequence_unpark_pages(dca_sequence* sequence, const int32_t* tokens, size_t n_tokens, const uint32_t* slots, size_t n) {
    return guarded([&] {
        if (n_tokens != 0) needed(tokens, "tokens");
        if (n != 0) needed(slots, "slots");
        dca::sequence_of(sequence).unpark({tokens, n_tokens}, {slots, n});
    });
}

uint64_t dca_available_memory(void) { return dca::available_memory(); }

dca_status dca_engine_eval(dca_engine* engine, const dca_feed* feeds, size_t n) {
    return guarded([&] { dca::engine_of(engine).eval(dca::feeds_of(feeds, n, true, true)); });
}

dca_status dca_engine_score(dca_engine* engine, const dca_feed* feeds, size_t n) {
    return guarded([&] { dca::engine_of(engine).score(dca::feeds_of(feeds, n, false, true)); });
}

dca_status dca_engine_sample(dca_engine* engine, const dca_feed* feeds, const dca_sampling* const* samplings, size_t n,
                             dca_choice* choices) {
    return guarded([&] {
        dca::Engine& runs = dca::engine_of(engine);
        const std::vector<dca::Feed> all = dca::feeds_of(feeds, n, false, false);
        if (n != 0) needed(samplings, "samplings");
        if (n != 0) needed(choices, "choices");
        std::vector<dca::SamplingCall> calls(n);
        std::vector<dca::SampleRequest> requests;
        for (size_t i = 0; i < n; ++i) {
            requests.push_back(calls[i].request(needed(samplings[i], "sampling"), all[i].sequence->tokens(), all[i].tokens,
                                                runs.model().hparams().n_vocab));
        }
        runs.sample(all, requests);
        for (size_t i = 0; i < n; ++i) choices[i] = calls[i].answer(requests[i]);
    });
}

dca_status dca_sequence_save(const dca_sequence* sequence, const char* path) {
    return guarded([&] { dca::save_sequence(dca::awake_sequence_of(sequence), &needed(path, "path")); });
}

dca_status dca_sequence_load(dca_engine* engine, const char* path, dca_sequence** sequence) {
    return guarded([&] {
        needed(sequence, "sequence") = nullptr;
        auto loaded = dca::load_sequence(dca::engine_of(engine), &needed(path, "path"));
        *sequence = new dca_sequence{engine->owned, std::move(loaded)};
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
