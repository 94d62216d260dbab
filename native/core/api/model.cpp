// The C API: argument checks, then the classes. Nothing throws past here.
#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "core/api/sampling.h"
#include "core/api/support.h"
#include "core/error.h"
#include "core/model.h"
#include "core/engine/session.h"
#include "dca.h"

namespace dca {

namespace {

constexpr size_t kLongestMessage = 1200;  // its parts are cut before (fail)

// Not a std::string: that memory has run out must be said without any.
thread_local std::array<char, 4 * kLongestMessage + 64> last_error{};  // a byte becomes up to four (printable)

constexpr dca_model_options kDefaultModelOptions{
    .size = sizeof(dca_model_options), .device = nullptr, .threads = 0, .progress = nullptr, .user = nullptr, .repack = 1};

constexpr dca_session_options kDefaultSessionOptions{.size = sizeof(dca_session_options),
                                                     .context = 4096,
                                                     .attention = DCA_ATTENTION_AUTO,
                                                     .scheme = {},
                                                     .cache_type = DCA_CACHE_F16,
                                                     .prefill_block = 0,
                                                     .progress = nullptr,
                                                     .user = nullptr,
                                                     .rope = DCA_ROPE_MODEL,
                                                     .rope_factor = 1.0f,
                                                     .prefill = DCA_PREFILL_DENSE,
                                                     .alpha = 0.0f,
                                                     .sparse_from = dca::kSparseFrom,
                                                     .record_selection = 0,
                                                     .border = {}};

}  // namespace

void set_last_error(const char* message) noexcept {
    std::string_view shown = "out of memory";
    std::string printed;
    try {
        printed = printable(message, kLongestMessage);
        shown = printed;
    } catch (const std::bad_alloc&) {}
    const size_t length = shown.copy(last_error.data(), last_error.size() - 1);
    last_error[length] = '\0';
}

}  // namespace dca

using dca::guarded;
using dca::needed;

const char* dca_last_error(void) { return dca::last_error.data(); }

const char* dca_version(void) { return DCA_VERSION; }

void dca_model_options_default(dca_model_options* options) { dca::fill_default(options, dca::kDefaultModelOptions); }

dca_status dca_model_load(const char* path, const dca_model_options* options, dca_model** model) {
    return guarded([&] {
        needed(model, "model") = nullptr;
        needed(path, "path");
        const auto all = dca::merged(dca::kDefaultModelOptions, options);
        if (all.threads < 0 || all.threads > 1024) dca::fail(DCA_ERROR_ARGUMENT, "threads is ", all.threads, ", must be 0 to 1024");
        *model = new dca_model{std::make_shared<dca::Model>(path, all)};
    });
}

void dca_model_free(dca_model* model) {
    if (model != nullptr) model->model->retire();
    delete model;
}

dca_status dca_model_get_info(const dca_model* model, dca_model_info* info) {
    return guarded([&] { dca::fill(info, *needed(model, "model").model); });
}

uint64_t dca_model_metadata_count(const dca_model* model) { return model == nullptr ? 0 : model->model->file().values().size(); }

dca_status dca_model_metadata_at(const dca_model* model, uint64_t index, dca_metadata* out) {
    return guarded([&] {
        const auto& values = needed(model, "model").model->file().values();
        if (index >= values.size()) dca::fail(DCA_ERROR_ARGUMENT, "metadata index is ", index, ", must be below ", values.size());
        const dca::GgufValue& value = values[index];
        needed(out, "value") = {
            .key = value.key.data(),
            .key_bytes = value.key.size(),
            .type = static_cast<uint32_t>(value.type),
            .element_type = static_cast<uint32_t>(value.element_type),
            .count = value.count,
            .data = value.data.data(),
            .data_bytes = value.data.size(),
        };
    });
}

void dca_session_options_default(dca_session_options* options) { dca::fill_default(options, dca::kDefaultSessionOptions); }

dca_status dca_session_create(dca_model* model, const dca_session_options* options, dca_session** session) {
    return guarded([&] {
        needed(session, "session") = nullptr;
        const auto all = dca::merged(dca::kDefaultSessionOptions, options);
        const std::shared_ptr<dca::Model>& shared = needed(model, "model").model;
        *session = new dca_session{shared, dca::Session(*shared, all), {}};
    });
}

void dca_session_free(dca_session* session) { delete session; }

dca_status dca_session_get_info(const dca_session* session, dca_session_info* info) {
    return guarded([&] { dca::fill(info, needed(session, "session").session); });
}

dca_status dca_session_density(const dca_session* session, float* density, size_t capacity) {
    return guarded([&] {
        const dca_session& runs = needed(session, "session");
        dca::read_density(*runs.model, runs.session.executor(), {&needed(density, "density"), capacity});
    });
}

dca_status dca_session_selection(dca_session* session, const uint32_t** words, size_t* n) {
    return guarded([&] {
        dca_session& runs = needed(session, "session");
        needed(words, "words");
        needed(n, "n");
        runs.selection = runs.session.executor().selection();
        *words = runs.selection.data();
        *n = runs.selection.size();
    });
}

dca_status dca_session_eval(dca_session* session, const int32_t* tokens, size_t n, int32_t which, float* logits, size_t capacity) {
    return guarded([&] {
        if (n != 0) needed(tokens, "tokens");
        const dca_logits wanted = dca::checked_logits(which);
        if (wanted != DCA_LOGITS_NONE) needed(logits, "logits");
        needed(session, "session").session.eval({tokens, n}, wanted, {logits, logits == nullptr ? 0 : capacity});
    });
}

dca_status dca_session_score(dca_session* session, const int32_t* tokens, size_t n, float* nll, size_t capacity) {
    return guarded([&] {
        if (n != 0) needed(tokens, "tokens");
        needed(session, "session").session.score({tokens, n}, {&needed(nll, "nll"), capacity});
    });
}

dca_status dca_session_sample(dca_session* session, const int32_t* tokens, size_t n, int32_t which, const dca_sampling* sampling,
                              dca_choice* choices) {
    return guarded([&] {
        if (n != 0) needed(tokens, "tokens");
        const dca_logits wanted = dca::checked_logits(which);
        dca::Session& runs = needed(session, "session").session;
        if (wanted == DCA_LOGITS_NONE) dca::fail(DCA_ERROR_ARGUMENT, "which is DCA_LOGITS_NONE: nothing is to be chosen");
        const size_t count = wanted == DCA_LOGITS_ALL ? n : std::min<size_t>(n, 1);
        needed(choices, "choices");
        std::vector<dca::SamplingCall> calls(count);
        std::vector<dca::SampleRequest> requests;
        for (size_t i = 0; i < count; ++i) {
            requests.push_back(calls[i].request(needed(sampling, "sampling"), runs.sequence().tokens(), {tokens, n - count + i + 1},
                                                runs.engine().model().hparams().n_vocab, i));
        }
        runs.sample({tokens, n}, requests);
        for (size_t i = 0; i < count; ++i) choices[i] = calls[i].answer(requests[i]);
    });
}

dca_status dca_session_exact_prefix(const dca_session* a, const dca_session* b, uint32_t* length) {
    return guarded([&] { needed(length, "length") = needed(a, "a").session.exact_prefix(needed(b, "b").session); });
}

dca_status dca_session_copy_prefix(dca_session* to, const dca_session* from, uint32_t length) {
    return guarded([&] { needed(to, "to").session.copy_prefix(needed(from, "from").session, length); });
}

dca_status dca_session_truncate(dca_session* session, uint32_t length) {
    return guarded([&] { needed(session, "session").session.truncate(length); });
}
