// How much memory this process could take without pushing anything out.
#pragma once

#include <cstdint>

namespace dca {

/// Bytes: what the system calls available, no more than what the control groups around the process have left, and no
/// more than the process may still map; UINT64_MAX where none of these is known.
uint64_t available_memory() noexcept;

}  // namespace dca
