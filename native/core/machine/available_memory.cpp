#include "core/machine/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>

#include "core/machine/control_group.h"
#endif

namespace dca {

#if defined(__linux__)

namespace {

/// The number a file starts with; nothing where it is missing or says "max".
std::optional<uint64_t> number_in(const std::string& path) {
    uint64_t number = 0;
    if (!(std::ifstream(path) >> number)) return std::nullopt;
    return number;
}

/// The number after `key` in a file of lines "key number"; 0 where there is none.
uint64_t entry_of(const std::string& path, std::string_view key) {
    std::ifstream file(path);
    uint64_t number = 0;
    for (std::string word; file >> word; file.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
        if (word == key && file >> number) return number;
    }
    return 0;
}

/// What a group's limit leaves: pages of files that nobody has read for a while do not count as used, they make room.
uint64_t left_in(const std::string& group) {
    struct Names {
        const char *limit, *used, *reclaimable;
    };
    constexpr Names version_2{"/memory.max", "/memory.current", "inactive_file"};
    constexpr Names version_1{"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"};
    uint64_t left = std::numeric_limits<uint64_t>::max();
    for (const Names& names : {version_2, version_1}) {
        const auto limit = number_in(group + names.limit);
        if (!limit) continue;
        const uint64_t used = number_in(group + names.used).value_or(0);
        const uint64_t held = used - std::min(used, entry_of(group + "/memory.stat", names.reclaimable));
        left = std::min(left, *limit - std::min(*limit, held));
    }
    return left;
}

}  // namespace

#endif

uint64_t available_memory() noexcept {
    uint64_t bytes = std::numeric_limits<uint64_t>::max();
#if defined(__linux__)
    try {
        if (const uint64_t kibibytes = entry_of("/proc/meminfo", "MemAvailable:"); kibibytes != 0) bytes = kibibytes * 1024;
        for (const std::string& group : control_groups("memory")) bytes = std::min(bytes, left_in(group));
        rlimit addresses{};  // `ulimit -v`
        if (::getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY) {
            const uint64_t mapped = number_in("/proc/self/statm").value_or(0) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
            bytes = std::min(bytes, addresses.rlim_cur - std::min<uint64_t>(mapped, addresses.rlim_cur));
        }
    } catch (...) {
        // Out of memory while reading: what is known so far.
    }
#endif
    return bytes;
}

}  // namespace dca
