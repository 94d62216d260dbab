// Whole pages of a sequence to and from host memory, for programs that keep them: what a page holds depends on its setup
// (core/engine/setup.h) and the tokens up to its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/engine/engine.h"

namespace dca {

/// Copies `count` pages from page `first` on to `out`, one after another. Only whole pages: those full of tokens.
void read_pages(const Sequence& sequence, uint32_t first, uint32_t count, std::span<std::byte> out);

/// Appends tokens whose keys and values are `pages`, as read_pages gave them for the same tokens up to there. The sequence
/// ends at a page's end, the tokens fill whole pages. If it fails the sequence is as before.
void append_pages(Sequence& sequence, std::span<const int32_t> tokens, std::span<const std::byte> pages);

}  // namespace dca
