// Which query blocks of which heads are worked on when; host and device.
#pragma once

#include <cstdint>

#include "core/positions/host_device.h"

namespace dca::cuda {

/// The order in which (head, query block) pairs are worked on. Heads go in sections whose keys
/// and values fit in the L2 cache together; inside one, the longest blocks come first and the
/// query heads that share a key head stand next to each other.
struct WorkOrder {
    uint32_t n_blocks, n_heads, heads_per_section;

    struct Item {
        uint32_t head, block;
    };

    DCA_HOST_DEVICE uint32_t count() const { return n_blocks * n_heads; }

    DCA_HOST_DEVICE Item at(uint32_t index) const {
        const uint32_t per_section = heads_per_section * n_blocks;
        const uint32_t section = index / per_section;
        const uint32_t first_head = section * heads_per_section;
        const uint32_t heads = n_heads - first_head < heads_per_section ? n_heads - first_head : heads_per_section;
        const uint32_t within = index - section * per_section;
        return {first_head + within % heads, n_blocks - 1 - within / heads};
    }
};

}  // namespace dca::cuda
