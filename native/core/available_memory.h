// How much memory this process could take without pushing anything out.
#pragma once

#include <cstdint>

namespace dca {

/// Bytes: what the system calls available, and no more than the control group allows; UINT64_MAX where neither is known.
uint64_t available_memory() noexcept;

}  // namespace dca
