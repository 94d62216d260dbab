// What the values of a cache of keys and values are kept as.
#pragma once

#include <cstdint>

#include "dca.h"

namespace dca {

/// Numbered as dca_cache_type; tables of functions are indexed by it.
enum class CacheType : int32_t { F16 = DCA_CACHE_F16, F32 = DCA_CACHE_F32, BF16 = DCA_CACHE_BF16, Q8 = DCA_CACHE_Q8, Q4 = DCA_CACHE_Q4 };
constexpr int kCacheTypes = 5;

}  // namespace dca
