#include "core/positions/scheme.h"

#include "core/error.h"

namespace dca {

void validate_scheme(const dca_scheme& scheme, dca_status status, const char* where) {
    const uint64_t s = scheme.chunk_size;
    const uint64_t w = scheme.local_window;
    const uint64_t c = scheme.pretraining_length;
    if (s == 0) fail(status, where, "chunk_size is 0, must be at least 1");
    if (c > (1u << 30)) fail(status, where, "pretraining_length is ", c, ", must be at most ", 1u << 30);
    if (s >= c) fail(status, where, "chunk_size is ", s, ", must be below pretraining_length ", c);
    if (w > c - s) {
        fail(status, where, "local_window is ", w, ", must be at most pretraining_length - chunk_size = ", c - s);
    }
    if (!std::isfinite(scheme.logit_scale) || scheme.logit_scale < 0.0f) {
        fail(status, where, "logit_scale is ", scheme.logit_scale, ", must be finite and not negative");
    }
    if (scheme.logit_scale > 0.0f && scheme.logit_scale_length == 0) {
        fail(status, where, "logit_scale_length is 0, must be at least 1 when logit_scale is set");
    }
}

uint32_t common_prefix(const Scheme& a, const Scheme& b) noexcept {
    if (a == b) return Scheme::kEndless;
    uint32_t length = std::min(a.ordinary_tokens(), b.ordinary_tokens());
    if (a.logit_scale == b.logit_scale && a.logit_scale_length == b.logit_scale_length) return length;
    for (const Scheme* scheme : {&a, &b}) {
        if (scheme->logit_scale != 0.0f) length = std::min(length, scheme->logit_scale_length);
    }
    return length;
}

Scheme make_scheme(const dca_scheme& integers, int32_t attention) {
    if (attention < DCA_ATTENTION_AUTO || attention > DCA_ATTENTION_LM_INFINITE) {
        fail(DCA_ERROR_ARGUMENT, "attention is ", attention, ", must be one of dca_attention (0 to 7)");
    }
    const bool given = integers.chunk_size != 0;
    if (attention == DCA_ATTENTION_PLAIN || (attention == DCA_ATTENTION_AUTO && !given)) return Scheme{};
    if (!given) {
        fail(DCA_ERROR_ARGUMENT,
             "this attention needs a scheme (chunk_size, local_window, pretraining_length), "
             "and neither the file nor the session options give one");
    }
    validate_scheme(integers, DCA_ERROR_ARGUMENT, "");
    Scheme scheme{integers.chunk_size,  integers.local_window,       integers.pretraining_length,
                  integers.logit_scale, integers.logit_scale_length, attention == DCA_ATTENTION_INTRA};
    // The ablations lack successive-chunk attention. Without a local window P_succ is c - 1 like P_inter:
    // what is seen of earlier chunks is seen from there.
    if (attention == DCA_ATTENTION_INTRA || attention == DCA_ATTENTION_INTRA_INTER) scheme.local_window = 0;
    return scheme;
}

Scheme make_border_scheme(const dca_border& border, int32_t attention) {
    if (border.window == 0) {
        fail(DCA_ERROR_ARGUMENT, "this attention needs a border (window, beyond), and ",
             attention == DCA_ATTENTION_STRING ? "neither the file nor the session options give one" : "the session options give none");
    }
    constexpr uint32_t longest = 1u << 30;
    const uint32_t most = attention == DCA_ATTENTION_STRING ? std::min(border.window, longest) : longest;
    if (border.window > longest) fail(DCA_ERROR_ARGUMENT, "the border's window is ", border.window, ", must be at most ", longest);
    if (border.beyond > most) fail(DCA_ERROR_ARGUMENT, "the border's beyond is ", border.beyond, ", must be at most ", most);
    Scheme scheme;
    scheme.border = attention == DCA_ATTENTION_STRING      ? Border::String
                    : attention == DCA_ATTENTION_STREAMING ? Border::Streaming
                                                           : Border::LmInfinite;
    scheme.window = border.window;
    scheme.beyond = border.beyond;
    return scheme;
}

}  // namespace dca
