// Splitting one independent loop over short-lived threads: for work of milliseconds and more,
// such as converting a tensor. (Inference has its own pool.)
#pragma once

#include <cstdint>
#include <functional>

namespace dca {

/// The physical cores this process may use (affinity and control group honoured), at least 1.
int usable_cores() noexcept;

/// Calls body(begin, end) over ranges that cover [0, n), each `grain` long but the last, on up to
/// `threads` threads (0: usable_cores()), this one included. Ranges are handed out in order. If a
/// body throws, no further range starts and the first range's exception is thrown here.
void parallel_ranges(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body);

}  // namespace dca
