// How byte-level BPE tokenizers cut text before merging, by the names that tokenizer.ggml.pre gives (the same table is in
// runtime/dca_runtime/text/pretokenizers.py, as regular expressions).
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "core/tokenizer/pretokenizer/patterns.h"

namespace dca {

struct Pretokenizer {
    std::span<const Pattern> patterns;  // one after another, each on the pieces that those before it left
    bool ignore_merges = false;         // a piece that is a token as a whole is not built from merges
    bool add_bos = false;               // where tokenizer.ggml.add_bos_token is absent
};

/// Null where nobody is called that.
const Pretokenizer* find_pretokenizer(std::string_view name) noexcept;

/// Calls `each` with the pieces of a text (UTF-8) in their order. What a pattern does not match stays a piece too.
void cut(const Pretokenizer& pretokenizer, std::string_view text, const std::function<void(std::string_view)>& each);

}  // namespace dca
