// The experts whose matrices are on a card: all, of a rank among several maybe some (core/ranks/shard.h).
#pragma once

#include <cstdint>

#include "core/positions/host_device.h"

namespace dca::cuda {

struct OwnExperts {
    uint32_t first = 0, count = 0;
    DCA_HOST_DEVICE bool hold(uint32_t expert) const { return expert - first < count; }
};

}  // namespace dca::cuda
