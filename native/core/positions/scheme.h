// Dual Chunk Attention's integers (An et al., ICML 2024, arXiv 2402.17463, eq. 2-8) and the positions
// they give; host and device.
//
// Keys carry P_k = j mod s. The keys a query at index i sees fall into three consecutive
// ranges, each with its own query position; with n = floor(i / s) and r = i mod s:
//   inter       [0, (n-1)s)     P_inter = c - 1
//   successive  [(n-1)s, ns)    P_succ  = min(s + r, c - 1) for r < w, else c - 1
//   intra       [ns, i]         P_intra = r
// Plain causal attention is the same scheme with one endless chunk.
//
// Three methods have a border that moves with the query instead (Border): keys nearer than `window` are a range of their
// own, at their ordinary distances, and what is seen beyond is another, or several. All run through the same walk over
// ranges; core/positions/key_ranges.h cuts work along them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/positions/host_device.h"
#include "dca.h"

namespace dca {

/// The keys that a query sees at one position, from the nearest on. Where a border moves with the query there are Near
/// and Far (and in LM-Infinite a range for each key beyond the border, numbered from Far on).
enum class Range : uint32_t { Intra = 0, Successive = 1, Inter = 2, Near = 0, Far = 1 };

/// How the ranges' border is drawn. Keys carry P_k = j where it moves; a distance is i - j.
enum class Border : uint32_t {
    Chunk,       // with the chunks
    String,      // distances m from `window` on are m - window + beyond (STRING, arXiv 2410.18745)
    Streaming,   // beyond the window the first `beyond` keys, as if those and the window were all (StreamingLLM, arXiv 2309.17453)
    LmInfinite,  // the same keys at the distance `window` (LM-Infinite, arXiv 2308.16137)
};

struct Scheme {
    uint32_t chunk_size = kEndless;   // s >= 1
    uint32_t local_window = 0;        // w
    uint32_t pretraining_length = 0;  // c
    float logit_scale = 0.0f;         // a; 0 turns the factor off
    uint32_t logit_scale_length = 0;  // n0
    bool intra_only = false;          // ablation: earlier chunks are not seen
    Border border = Border::Chunk;
    uint32_t window = 0;  // of a border that moves: keys at smaller distances are near
    uint32_t beyond = 0;  // as Border says

    static constexpr uint32_t kEndless = 1u << 31;

    bool operator==(const Scheme&) const = default;

    bool plain() const noexcept { return endless() && !moves(); }
    /// Whether positions grow with the sequence.
    bool endless() const noexcept { return chunk_size == kEndless; }
    DCA_HOST_DEVICE bool moves() const noexcept { return border != Border::Chunk; }

    /// How many tokens from the start of a sequence attend as in plain attention, but for the logit factor.
    uint32_t ordinary_tokens() const noexcept { return moves() ? window : chunk_size; }

    DCA_HOST_DEVICE uint32_t key_position(uint32_t i) const noexcept { return i % chunk_size; }

    /// Where the query with remainder r = i mod s is rotated for the keys of `range`.
    DCA_HOST_DEVICE uint32_t query_position(Range range, uint32_t r) const noexcept {
        if (range == Range::Intra) return r;
        if (border == Border::String) return r < window ? r : r - window + beyond;
        if (border == Border::Streaming) return r < window + beyond ? r : window + beyond - 1;
        if (border == Border::LmInfinite) return window + static_cast<uint32_t>(range) - static_cast<uint32_t>(Range::Far);
        const uint32_t last = pretraining_length - 1;
        if (range == Range::Inter || r >= local_window) return last;
        return chunk_size + r < last ? chunk_size + r : last;
    }

    /// One more than the largest position that a sequence of `context` tokens uses; of a scheme, that it may use.
    uint32_t position_count(uint32_t context) const noexcept {
        return endless() ? context : std::max(pretraining_length, std::min(chunk_size, context));
    }

    /// How many different positions a sequence of `context` tokens uses: those from 0 on, and behind a gap, where there
    /// is one, the last, c - 1. A rotation table has a row for each, in this order.
    uint32_t table_rows(uint32_t context) const noexcept {
        if (context <= chunk_size) return context;
        if (intra_only) return chunk_size;
        const uint32_t successive = chunk_size + std::min(local_window, context - chunk_size);
        return std::min(successive + 1, pretraining_length);
    }

    /// The scheme whose positions are rows of that table: what lies behind the gap is its last row.
    Scheme in_rows(uint32_t context) const noexcept {
        Scheme rows = *this;
        if (!endless()) rows.pretraining_length = table_rows(context);
        return rows;
    }

    /// m² of the query at index i, whose sequence is n = i + 1 tokens long; m = max(1, a ln(n / n0) + 1).
    /// In f32 on a card, where double precision is slow.
    DCA_HOST_DEVICE float logit_factor(uint32_t i) const noexcept {
        if (logit_scale == 0.0f) return 1.0f;
#if defined(__CUDA_ARCH__)
        const float m = fmaxf(1.0f, logit_scale * logf((i + 1.0f) / logit_scale_length) + 1.0f);
        return m * m;
#else
        const double n = static_cast<double>(i) + 1.0;
        const double m = std::max(1.0, static_cast<double>(logit_scale) * std::log(n / logit_scale_length) + 1.0);
        return static_cast<float>(m * m);
#endif
    }
};

/// The scheme that gives the queries of a layer with a window their ordinary distances, whatever the attention: chunks as
/// long as the window reach back into the one before at most, where P_succ = s + r is exact. So keys need 2 s positions
/// in sequences of any length.
DCA_HOST_DEVICE Scheme window_scheme(uint32_t window) noexcept { return {window, window, 2 * window, 0.0f, 0, false}; }

/// How many tokens from the start of a sequence two schemes treat alike, so that they give them the same
/// keys and values: all (`kEndless`) if they are equal, else those of the smaller first chunk or window, where
/// positions are the ordinary ones, as far as no logit factor sets in.
uint32_t common_prefix(const Scheme& a, const Scheme& b) noexcept;

/// The scheme that a session runs: `attention` applied to the integers of its options or file
/// (DESIGN contract: 0 < s < c, 0 <= w <= c - s). Throws Error naming the field.
Scheme make_scheme(const dca_scheme& integers, int32_t attention);

/// The same for a border that moves; `attention` is one of those that have one.
Scheme make_border_scheme(const dca_border& border, int32_t attention);

constexpr bool has_border(int32_t attention) noexcept {
    return attention >= DCA_ATTENTION_STRING && attention <= DCA_ATTENTION_LM_INFINITE;
}

/// Throws Error(status) with `where` in front unless the integers are a valid scheme.
void validate_scheme(const dca_scheme& integers, dca_status status, const char* where);

}  // namespace dca
