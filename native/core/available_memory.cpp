#include "core/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

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
    } catch (...) {
        // Out of memory while reading: what is known so far.
    }
#endif
    return bytes;
}

}  // namespace dca
