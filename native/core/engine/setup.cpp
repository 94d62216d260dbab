#include "core/engine/setup.h"

#include <bit>
#include <span>
#include <sstream>

#include "core/engine/page_pool.h"
#include "core/gguf/checksum.h"

namespace dca {

std::vector<std::string> setup_lines(Engine& engine) {
    std::vector<std::string> lines;
    const auto line = [&](const auto&... parts) {
        std::ostringstream text;
        text.exceptions(std::ios::badbit);  // where memory runs out, a stream goes on without the rest
        (text << ... << parts);
        lines.push_back(text.str());
    };
    const Scheme& s = engine.scheme();
    const RopeFrequencies& rope = engine.rope();
    Checksum frequencies;
    frequencies.add(std::as_bytes(std::span(rope.radians)));
    frequencies.add(std::as_bytes(std::span(&rope.magnitude, 1)));
    line("model ", engine.model().fingerprint());
    if (s.plain()) {
        line("attention plain");
    } else if (s.moves()) {
        constexpr const char* names[] = {"", "string", "streaming", "lm-infinite"};
        line("attention ", names[static_cast<uint32_t>(s.border)], " window ", s.window, " beyond ", s.beyond);
    } else {
        line("attention chunk_size ", s.chunk_size, " local_window ", s.local_window, " pretraining_length ", s.pretraining_length,
             " logit_scale ", std::bit_cast<uint32_t>(s.logit_scale), " logit_scale_length ", s.logit_scale_length,
             s.intra_only ? " intra only" : "");
    }
    line("rope ", frequencies.value());
    if (const PrefillSpec& prefill = engine.prefill(); prefill.sparse) {
        line("prefill sparse alpha ", std::bit_cast<uint32_t>(prefill.alpha), " from ", prefill.from);
    } else if (prefill.stated != nullptr) {
        line("prefill stated");
    } else {
        line("prefill dense");
    }
    line("layout ", engine.cache().layout(engine.model().hparams()));
    line("page ", kPageTokens, " tokens ", engine.cache().page_bytes(), " bytes");
    return lines;
}

std::string setup_text(Engine& engine) {
    std::string text;
    for (const std::string& line : setup_lines(engine)) text += line + "\n";
    return text;
}

}  // namespace dca
