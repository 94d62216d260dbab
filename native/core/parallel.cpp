#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace dca {

int usable_cores() noexcept {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, int(std::thread::hardware_concurrency()));
}

void parallel_ranges(int64_t n, int64_t grain, int threads, const std::function<void(int64_t, int64_t)>& body) {
    const int64_t n_ranges = (n + grain - 1) / grain;
    const int64_t n_threads = std::min<int64_t>(threads > 0 ? threads : usable_cores(), n_ranges);

    std::atomic<int64_t> next{0};
    std::mutex failure_mutex;
    int64_t failed_range = std::numeric_limits<int64_t>::max();
    std::exception_ptr failure;

    const auto work = [&] {
        for (int64_t range; (range = next.fetch_add(1)) < n_ranges;) {
            try {
                body(range * grain, std::min(n, (range + 1) * grain));
            } catch (...) {
                next = n_ranges;
                const std::lock_guard lock(failure_mutex);
                if (range < failed_range) {
                    failed_range = range;
                    failure = std::current_exception();
                }
            }
        }
    };
    {
        std::vector<std::jthread> helpers;
        for (int64_t i = 1; i < n_threads; ++i) helpers.emplace_back(work);
        work();
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace dca
