// Which rows of a step begin with the same pages, so that attention reads those once (attention/attention.h's groups).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/positions/scheme.h"
#include "cuda/attention/attention.h"

namespace dca::cuda {

/// One sequence's newest token: the pages of its tokens, and how many those are.
struct LoneRow {
    std::span<const uint32_t> pages;
    uint32_t length;
};

/// Groups of 2 to `most_rows` rows, by their numbers; with most_rows below 2 none, nor where every row has a border of its own. Rows whose other tokens are more than the
/// shared ones are left alone: cutting their keys into fewer splits would cost more than it saves.
std::vector<DecodeGroup> find_groups(std::span<const LoneRow> rows, const Scheme& scheme, uint32_t most_rows);

}  // namespace dca::cuda
