#include "core/session.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/forward.h"

namespace dca {

Session::Session(Model& model, const dca_session_options& options)
    : model_(model), progress_(options.progress), user_(options.user), context_(options.context) {
    if (context_ == 0 || context_ > (1u << 30)) fail(DCA_ERROR_ARGUMENT, "context is ", context_, ", must be 1 to ", 1u << 30);
    if (options.cache_type < DCA_CACHE_F16 || options.cache_type > DCA_CACHE_Q8) {
        fail(DCA_ERROR_ARGUMENT, "cache_type is ", options.cache_type, ", must be one of dca_cache_type (0 to 3)");
    }
    const dca_scheme& integers = options.scheme.chunk_size != 0 ? options.scheme : model.hparams().scheme;
    attention_ = make_scheme(integers, options.attention);
    cache_type_ = static_cast<dca_cache_type>(options.cache_type);
    RopeTable rope = make_rope_table(with_rope(model.hparams(), options.rope, options.rope_factor), model.weights(), attention_, context_);
    rope_ = rope.frequencies;
    executor_ = model.backend().make_executor({
        .context = context_,
        .cache_type = cache_type_,
        .prefill_block = std::min(options.prefill_block, context_),
        .scheme = attention_,
        .rope = std::move(rope),
    });
}

void Session::check_tokens(std::span<const int32_t> tokens) const {
    if (tokens.size() > context_ - length_) {
        fail(DCA_ERROR_CONTEXT, "the context holds ", context_, " tokens, ", length_, " are in it and ", tokens.size(),
             " more do not fit; make the session with a larger context");
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= model_.hparams().n_vocab) {
            fail(DCA_ERROR_ARGUMENT, "token id ", tokens[i], " at index ", i, " is not in the vocabulary of ", model_.hparams().n_vocab,
                 " tokens");
        }
    }
}

template <class Wanted, class Read>
void Session::feed(std::span<const int32_t> tokens, Wanted&& wanted, Read&& read) {
    check_tokens(tokens);
    const size_t block = executor_->prefill_block();
    for (size_t first = 0; first < tokens.size(); first += block) {
        const size_t count = std::min(block, tokens.size() - first);
        const uint32_t start = length_ + static_cast<uint32_t>(first);
        forward(*executor_, model_.hparams(), tokens.subspan(first, count), start, wanted(first, count));
        read(first, count);
        executor_->end();
        if (progress_ != nullptr && progress_(first + count, tokens.size(), user_) != 0) {
            fail(DCA_ERROR_CANCELLED, "cancelled after ", first + count, " of ", tokens.size(), " tokens");
        }
    }
    length_ += static_cast<uint32_t>(tokens.size());
}

void Session::eval(std::span<const int32_t> tokens, dca_logits which, std::span<float> logits) {
    const size_t n_vocab = model_.hparams().n_vocab;
    const size_t rows = which == DCA_LOGITS_ALL ? tokens.size() : which == DCA_LOGITS_LAST ? 1 : 0;
    if (tokens.empty()) fail(DCA_ERROR_ARGUMENT, "expected at least 1 token, got none");
    if (logits.size() < rows * n_vocab) {
        fail(DCA_ERROR_ARGUMENT, "room for ", logits.size(), " logits, ", rows * n_vocab, " are to be written");
    }
    const auto wanted = [&](size_t first, size_t count) -> uint32_t {
        if (which == DCA_LOGITS_ALL) return static_cast<uint32_t>(count);
        return which == DCA_LOGITS_LAST && first + count == tokens.size() ? 1 : 0;
    };
    feed(tokens, wanted, [&](size_t first, size_t count) {
        if (wanted(first, count) == 0) return;
        executor_->logits(logits.data() + (which == DCA_LOGITS_ALL ? first * n_vocab : 0));
    });
}

void Session::score(std::span<const int32_t> tokens, std::span<float> nll) {
    if (tokens.size() < 2) fail(DCA_ERROR_ARGUMENT, "expected at least 2 tokens to score, got ", tokens.size());
    if (nll.size() < tokens.size() - 1) {
        fail(DCA_ERROR_ARGUMENT, "room for ", nll.size(), " values, ", tokens.size() - 1, " are to be written");
    }
    const auto wanted = [](size_t, size_t count) { return static_cast<uint32_t>(count); };
    feed(tokens, wanted, [&](size_t first, size_t count) {
        // The last token has no successor to predict.
        const size_t scored = std::min(count, tokens.size() - 1 - first);
        if (scored != 0) executor_->nll(tokens.subspan(first + 1, scored), nll.data() + first);
    });
}

void Session::truncate(uint32_t length) {
    if (length > length_) fail(DCA_ERROR_ARGUMENT, "cannot truncate to ", length, " tokens, the session has ", length_);
    length_ = length;
}

const char* Session::difference(const Session& other) const noexcept {
    if (&model_ != &other.model_) return "models differ";
    if (cache_type_ != other.cache_type_) return "cache types differ";
    if (rope_ != other.rope_) return "RoPE scalings differ";
    return nullptr;
}

uint32_t Session::exact_prefix(const Session& other) const noexcept {
    return difference(other) != nullptr ? 0 : common_prefix(attention_, other.attention_);
}

void Session::copy_prefix(const Session& from, uint32_t length) {
    if (&from == this) fail(DCA_ERROR_ARGUMENT, "a session cannot copy from itself");
    if (const char* what = difference(from))
        fail(DCA_ERROR_ARGUMENT, "the sessions' ", what, ": their keys and values have nothing in common");
    if (const uint32_t exact = exact_prefix(from); length > exact) {
        fail(DCA_ERROR_ARGUMENT, "cannot copy ", length, " tokens: the two attentions give only the first ", exact,
             " the same keys and values");
    }
    if (length > from.length_) fail(DCA_ERROR_ARGUMENT, "cannot copy ", length, " tokens, the other session has ", from.length_);
    if (length > context_) fail(DCA_ERROR_CONTEXT, "cannot copy ", length, " tokens, the context holds ", context_);
    executor_->copy_cache(*from.executor_, length);
    length_ = length;
}

void Session::fill_info(dca_session_info& info) const {
    info.length = length_;
    info.context = context_;
    info.cache_bytes = executor_->cache_bytes();
    info.scratch_bytes = executor_->scratch_bytes();
    const Scheme& s = attention_;
    if (!s.plain()) info.scheme = {s.chunk_size, s.local_window, s.pretraining_length, s.logit_scale, s.logit_scale_length};
}

}  // namespace dca
