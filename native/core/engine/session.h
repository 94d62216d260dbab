// One sequence in an engine of its own.
#pragma once

#include <span>
#include <string>

#include "core/engine/engine.h"
#include "core/model.h"
#include "dca.h"

namespace dca {

class Session {
public:
    Session(Model& model, const dca_session_options& options);

    void eval(std::span<const int32_t> tokens, dca_logits which, std::span<float> logits);
    void score(std::span<const int32_t> tokens, std::span<float> nll);
    /// Appends, then answers the requests: what follows the last token, or, where there are as many, each of them.
    void sample(std::span<const int32_t> tokens, std::span<SampleRequest> requests);
    void truncate(uint32_t length) { sequence_.truncate(length); }

    /// How many tokens from the start both sessions give the very same keys and values (Engine::exact_prefix).
    uint32_t exact_prefix(const Session& other) const noexcept { return engine_.exact_prefix(other.engine_); }

    /// Makes the first `length` tokens of `from` all that this session holds. Throws unless that is exact.
    void copy_prefix(const Session& from, uint32_t length) { engine_.copy_prefix(sequence_, from.sequence_, length); }

    const Executor& executor() const noexcept { return engine_.executor(); }
    void collect_squares() { engine_.collect_squares(); }
    const ColumnSquares& squares() const noexcept { return engine_.squares(); }

    Engine& engine() noexcept { return engine_; }
    Sequence& sequence() noexcept { return sequence_; }
    const Sequence& sequence() const noexcept { return sequence_; }

    /// Replaces what the session holds with a saved sequence (core/engine/sequence_file.h).
    void load(const std::string& path);
    /// Appends tokens with their keys and values (core/engine/sequence_pages.h).
    void append_pages(std::span<const int32_t> tokens, std::span<const std::byte> pages);
    void fill_info(dca_session_info& info) const;

private:
    Engine engine_;
    Sequence sequence_;
};

}  // namespace dca
