// What fuzz targets hold the library to, whatever they give it.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

#include "dca.h"

namespace fuzz {

[[noreturn]] inline void broken(const char* what) {
    std::fprintf(stderr, "broken promise: %s (last error: %s)\n", what, dca_last_error());
    std::abort();
}

inline void promise(bool kept, const char* what) {
    if (!kept) broken(what);
}

/// Checks what holds after every call, and says whether it worked.
inline bool worked(dca_status status) {
    if (status == DCA_OK) return true;
    const std::string_view message = dca_last_error();
    promise(status != DCA_ERROR_INTERNAL, "no internal error");
    promise(!message.empty() && message.size() <= 8192, "a message of a line");
    for (const char c : message) promise(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "a message without control characters");
    return false;
}

/// A file in memory, by a path that can be opened.
class MemoryFile {
public:
    MemoryFile() : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) { promise(descriptor_ >= 0, "a file in memory"); }
    ~MemoryFile() { ::close(descriptor_); }
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;

    /// Holds these bytes, and `zeros` after them that take no memory.
    void hold(std::string_view bytes, size_t zeros = 0) {
        // What is cut off and comes back is zeros; what stays keeps its pages, so that they need not be found again.
        const bool held = ::ftruncate(descriptor_, static_cast<off_t>(bytes.size())) == 0 &&
                          ::pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()) &&
                          ::ftruncate(descriptor_, static_cast<off_t>(bytes.size() + zeros)) == 0;
        promise(held, "memory for a file");
    }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

private:
    int descriptor_;
};

}  // namespace fuzz
