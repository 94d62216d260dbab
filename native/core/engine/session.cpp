#include "core/engine/session.h"

#include "core/engine/sequence_file.h"
#include "core/engine/sequence_pages.h"

namespace dca {

namespace {

EngineOptions engine_options(const Model& model, const dca_session_options& options) {
    return {.tokens = options.context,
            .attention = options.attention,
            .scheme = options.scheme,
            .border = options.border,
            .cache_type = options.cache_type,
            .max_rows = options.prefill_block,
            .max_slices = 1,
            .progress = options.progress,
            .user = options.user,
            .rope = options.rope,
            .rope_factor = options.rope_factor,
            .one_sequence = true,
            .room = "context",
            .prefill = checked_prefill(model, options.prefill, options.alpha, options.sparse_from, options.record_selection != 0)};
}

}  // namespace

Session::Session(Model& model, const dca_session_options& options) : engine_(model, engine_options(model, options)), sequence_(engine_) {}

void Session::eval(std::span<const int32_t> tokens, dca_logits which, std::span<float> logits) {
    const Feed feed{&sequence_, tokens, which, logits};
    engine_.eval({&feed, 1});
}

void Session::score(std::span<const int32_t> tokens, std::span<float> nll) {
    const Feed feed{&sequence_, tokens, DCA_LOGITS_NONE, nll};
    engine_.score({&feed, 1});
}

void Session::sample(std::span<const int32_t> tokens, std::span<SampleRequest> requests) {
    const Feed feed{&sequence_, tokens, requests.size() == tokens.size() ? DCA_LOGITS_ALL : DCA_LOGITS_LAST, {}};
    engine_.sample({&feed, 1}, requests);
}

void Session::load(const std::string& path) {
    // A session has room for one sequence only.
    sequence_.truncate(0);
    sequence_.swap(*load_sequence(engine_, path));
}

void Session::append_pages(std::span<const int32_t> tokens, std::span<const std::byte> pages) {
    dca::append_pages(sequence_, tokens, pages);
}

void Session::fill_info(dca_session_info& info) const {
    info.length = sequence_.length();
    info.context = engine_.tokens();
    info.cache_bytes = engine_.cache_bytes();
    info.scratch_bytes = engine_.scratch_bytes();
    info.scheme = engine_.scheme_info();
    info.attention = engine_.attention_info();
    info.border = engine_.border_info();
}

}  // namespace dca
