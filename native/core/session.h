// A sequence of tokens and its KV cache.
#pragma once

#include <memory>
#include <span>

#include "core/backend.h"
#include "core/model.h"
#include "core/rope.h"
#include "core/scheme.h"
#include "dca.h"

namespace dca {

class Session {
public:
    Session(Model& model, const dca_session_options& options);

    void eval(std::span<const int32_t> tokens, dca_logits which, std::span<float> logits);
    void score(std::span<const int32_t> tokens, std::span<float> nll);
    void truncate(uint32_t length);

    /// How many tokens from the start both sessions give the very same keys and values; 0 if they differ in more
    /// than the attention, Scheme::endless if in nothing.
    uint32_t exact_prefix(const Session& other) const noexcept;

    /// Makes the first `length` tokens of `from` all that this session holds. Throws unless that is exact.
    void copy_prefix(const Session& from, uint32_t length);
    void fill_info(dca_session_info& info) const;

private:
    /// What keeps the other session's keys and values from being of use here; null if nothing does.
    const char* difference(const Session& other) const noexcept;

    void check_tokens(std::span<const int32_t> tokens) const;

    /// Feeds `tokens` in blocks. `wanted(first, count)` says how many of a block's last rows the
    /// caller reads, `read(first, count)` reads them. The length moves only if all of it succeeds.
    template <class Wanted, class Read>
    void feed(std::span<const int32_t> tokens, Wanted&& wanted, Read&& read);

    Model& model_;
    Scheme attention_;  // as run
    RopeFrequencies rope_;
    dca_cache_type cache_type_;
    dca_progress progress_;
    void* user_;
    uint32_t context_;
    uint32_t length_ = 0;
    std::unique_ptr<Executor> executor_;
};

}  // namespace dca
