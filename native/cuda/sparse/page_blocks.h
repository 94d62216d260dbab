// The cut of a prompt's queries for sparse prefill: into blocks that lie in one page and in one chunk; host and device.
#pragma once

#include <cstdint>
#include <numeric>

#include "core/engine/page_pool.h"
#include "core/positions/key_ranges.h"

namespace dca::cuda {

struct PageBlocks {
    uint32_t start, end, chunk_size;
    uint64_t both;  // every so many indices a page and a chunk begin together
    uint32_t count;

    PageBlocks(uint32_t start_, uint32_t n_queries, uint32_t chunk_size_)
        : start(start_),
          end(start_ + n_queries),
          chunk_size(chunk_size_),
          both(std::lcm(uint64_t{kPageTokens}, uint64_t{chunk_size_})),
          count(cuts(end - 1) + 1) {}

    DCA_HOST_DEVICE QueryBlock at(uint32_t index) const {
        // The first query that `index` cuts lie before or at.
        uint32_t first = start, above = end - 1;
        while (first < above) {
            const uint32_t middle = first + (above - first) / 2;
            if (cuts(middle) >= index)
                above = middle;
            else
                first = middle + 1;
        }
        const uint32_t chunk = first / chunk_size;
        const uint64_t page_end = (first / kPageTokens + 1) * uint64_t{kPageTokens}, chunk_end = (chunk + 1) * uint64_t{chunk_size};
        uint64_t stop = page_end < chunk_end ? page_end : chunk_end;
        if (stop > end) stop = end;
        return {first, static_cast<uint32_t>(stop - first), chunk};
    }

private:
    /// How many blocks but the first begin at or before `index`.
    DCA_HOST_DEVICE uint32_t cuts(uint32_t index) const { return begins(index) - begins(start); }
    DCA_HOST_DEVICE uint32_t begins(uint32_t index) const {
        return index / kPageTokens + index / chunk_size - static_cast<uint32_t>(index / both);
    }
};

}  // namespace dca::cuda
