// Where a sequence's keys lie in a cache: runs of pages that follow each other in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/engine/page_pool.h"
#include "core/positions/key_ranges.h"

namespace dca::cpu {

/// Calls visit(span, shift) for runs of pages that follow each other in memory: keys of `span` are at index + shift there.
/// Pages from `fresh` on stand alone.
template <class Visit>
void for_page_runs(std::span<const uint32_t> pages, KeyRange span, uint32_t fresh, Visit visit) {
    while (span.begin < span.end) {
        const uint32_t first = span.begin / kPageTokens;
        uint32_t next = first + 1;
        while (next < fresh && uint64_t{next} * kPageTokens < span.end && pages[next] == pages[next - 1] + 1) ++next;
        const auto end = static_cast<uint32_t>(std::min<uint64_t>(span.end, uint64_t{next} * kPageTokens));
        visit(KeyRange{span.begin, end}, (int64_t{pages[first]} - first) * kPageTokens);
        span.begin = end;
    }
}

}  // namespace dca::cpu
