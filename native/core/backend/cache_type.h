// What the values of a cache of keys and values are kept as.
#pragma once

#include <cstdint>

#include "core/positions/host_device.h"
#include "dca.h"

namespace dca {

/// Numbered as dca_cache_type; tables of functions are indexed by it.
enum class CacheType : int32_t { F16 = DCA_CACHE_F16, F32 = DCA_CACHE_F32, BF16 = DCA_CACHE_BF16, Q8 = DCA_CACHE_Q8, Q4 = DCA_CACHE_Q4 };
constexpr int kCacheTypes = 5;

/// Keys and values are kept as codes with scales, turned by Hadamard matrices.
DCA_HOST_DEVICE constexpr bool holds_codes(CacheType type) { return type == CacheType::Q8 || type == CacheType::Q4; }

/// The size of the Hadamard matrices that turn a head: the largest power of two in its size.
DCA_HOST_DEVICE constexpr int hadamard_size(int head_dim) { return head_dim & -head_dim; }

}  // namespace dca
