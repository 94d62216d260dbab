// A part of a walk over the tiles of keys: of few queries over many keys, which several blocks of threads share, or of keys that are
// there a piece at a time. merge_parts (split.cuh) puts together what was found.
#pragma once

#include "core/engine/page_pool.h"
#include "core/positions/key_ranges.h"

namespace dca::cuda {

/// Some pages of a sequence, of which a call is to read all.
struct KeyPiece {
    uint32_t begin = 0, end = Scheme::kEndless / kPageTokens;  // pages
    uint32_t number = 0, count = 1;                            // this piece, and how many there are
};

/// Of the tiles that TileWalk visits in a piece the `part`th of `parts` runs, as equal as they can be. There must be as many tiles.
template <uint32_t kTileKeys>
struct SplitWalk : TileWalk<kTileKeys> {
    using Whole = TileWalk<kTileKeys>;
    uint32_t behind;      // tiles of the part behind the current one
    uint32_t last_range;  // of the part

    DCA_HOST_DEVICE SplitWalk(const Scheme& scheme, const QueryBlock& block, const KeyPiece& piece, uint32_t part, uint32_t parts)
        : Whole(scheme, block) {
        const uint32_t before = from(piece.end);
        const uint64_t tiles = from(piece.begin) - before;
        const auto first = before + static_cast<uint32_t>(part * tiles / parts),
                   end = before + static_cast<uint32_t>((part + 1) * tiles / parts);
        this->skip(first);
        behind = end - first - 1;
        Whole last = *this;
        last.skip(behind);
        last_range = last.range_index;
    }

    DCA_HOST_DEVICE bool in_last_range() const { return this->range_index == last_range; }

    DCA_HOST_DEVICE bool next() {
        if (behind == 0) return false;
        --behind;
        return Whole::next();
    }

private:
    /// How many tiles of the whole walk lie in `page` or behind it: those it begins with.
    DCA_HOST_DEVICE uint32_t from(uint32_t page) const {
        static_assert(kPageTokens % kTileKeys == 0);
        uint32_t tiles = 0;
        for (uint32_t range = 0; range < this->ranges; ++range) {
            const KeyRange keys = key_range<false>(this->scheme, this->chunk, static_cast<Range>(range), this->queries_end);
            const uint32_t own = keys.begin / kTileKeys, end = ceil_div(keys.end, kTileKeys), wanted = page * (kPageTokens / kTileKeys);
            const uint32_t first = own > wanted ? own : wanted;
            tiles += end > first ? end - first : 0;
        }
        return tiles;
    }
};

}  // namespace dca::cuda
