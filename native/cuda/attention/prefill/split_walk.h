// A part of a walk over the tiles of keys, for few queries over many keys: several blocks of threads then share a block of
// queries, and merge_parts (split.cuh) puts together what they found.
#pragma once

#include "core/positions/key_ranges.h"

namespace dca::cuda {

/// Of the tiles that TileWalk visits the `part`th of `parts` runs, as equal as they can be. There must be as many tiles.
template <uint32_t kTileKeys>
struct SplitWalk : TileWalk<kTileKeys> {
    using Whole = TileWalk<kTileKeys>;
    uint32_t behind;      // tiles of the part behind the current one
    uint32_t last_range;  // of the part

    DCA_HOST_DEVICE SplitWalk(const Scheme& scheme, const QueryBlock& block, uint32_t part, uint32_t parts) : Whole(scheme, block) {
        const uint64_t tiles = this->left();
        const auto first = static_cast<uint32_t>(part * tiles / parts), end = static_cast<uint32_t>((part + 1) * tiles / parts);
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
};

}  // namespace dca::cuda
