// What a person takes for one character: grapheme clusters (Unicode Standard Annex 29), as far as they can be of up to five
// bytes. Longer ones may be cut where emoji or conjuncts of Indic letters are joined.
#pragma once

#include <cstddef>
#include <string_view>

namespace dca {

/// Where the cluster ends that begins at a byte of a text (UTF-8), which has more.
size_t cluster_end(std::string_view text, size_t at) noexcept;

}  // namespace dca
