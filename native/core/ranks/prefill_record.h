// What sparse prefill read on several ranks, as one: each counts its layers and its query heads from zero.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/backend/backend.h"
#include "core/ranks/shard.h"

namespace dca {

/// A rank's executor, and the layers and query heads that are its own.
struct RankRecord {
    const Executor& executor;
    Run layers, heads;
};

/// As Executor::density of the whole model, which has `n_heads` query heads.
void gather_density(std::span<const RankRecord> ranks, uint32_t n_heads, std::span<float> out);

/// As Executor::selection of the whole model: blocks by layer, head and query.
std::vector<uint32_t> gather_selection(std::span<const RankRecord> ranks);

}  // namespace dca
