#include "core/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#if defined(__linux__)
#include <sys/resource.h>
#include <unistd.h>
#endif

namespace dca {

uint64_t available_memory() noexcept {
    uint64_t bytes = std::numeric_limits<uint64_t>::max();
#if defined(__linux__)
    try {
        std::string key;
        std::ifstream system("/proc/meminfo");
        for (uint64_t kibibytes = 0; system >> key; system.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
            if (key == "MemAvailable:" && system >> kibibytes) bytes = kibibytes * 1024;
        }
        uint64_t limit = 0;  // "max" where there is none, which is no number
        for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
            if (std::ifstream(file) >> limit) bytes = std::min(bytes, limit);
        }
        rlimit addresses{};  // `ulimit -v`
        uint64_t mapped = 0;
        if (::getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY && std::ifstream("/proc/self/statm") >> mapped) {
            mapped *= static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
            bytes = std::min(bytes, addresses.rlim_cur - std::min<uint64_t>(mapped, addresses.rlim_cur));
        }
    } catch (...) {
        // Out of memory while reading: what is known so far.
    }
#endif
    return bytes;
}

}  // namespace dca
