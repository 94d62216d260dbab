#include "core/machine/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <limits>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>

#include "core/machine/control_group.h"
#endif

namespace dca {

#if defined(__linux__)

namespace {

/// The first hardware thread of the core that `cpu` belongs to; `cpu` itself where the kernel does not say.
int core_of(int cpu) {
    std::ifstream siblings("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    int first = cpu;
    siblings >> first;
    return first;
}

/// Whole processors that the control groups around this process allow (version 2's or 1's files); INT_MAX without a limit.
int allowed_by_control_groups() {
    double least = std::numeric_limits<int>::max();
    for (const std::string& group : control_groups("cpu")) {
        double quota = 0.0, period = 0.0;
        if (std::ifstream both(group + "/cpu.max"); !(both >> quota >> period)) {
            std::ifstream(group + "/cpu.cfs_quota_us") >> quota;
            std::ifstream(group + "/cpu.cfs_period_us") >> period;
        }
        if (quota > 0.0 && period > 0.0) least = std::min(least, quota / period);
    }
    return std::max(1, static_cast<int>(std::min(least + 0.5, double{std::numeric_limits<int>::max()})));
}

}  // namespace

#endif

int usable_cores() noexcept {
#if defined(__linux__)
    try {
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof(set), &set) == 0) {
            std::set<int> cores;
            for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
                if (CPU_ISSET(cpu, &set)) cores.insert(core_of(cpu));
            }
            return std::max(1, std::min(static_cast<int>(cores.size()), allowed_by_control_groups()));
        }
    } catch (...) {
        // Out of memory while counting: the plain answer below.
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
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
    std::vector<std::thread> helpers;
    try {
        helpers.reserve(static_cast<size_t>(n_threads));
        for (int64_t i = 1; i < n_threads; ++i) helpers.emplace_back(work);
    } catch (const std::exception&) {
        // No more threads or no memory for them: those there are do the work.
    }
    work();
    for (std::thread& helper : helpers) helper.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace dca
