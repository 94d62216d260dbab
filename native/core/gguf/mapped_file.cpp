#include "core/gguf/mapped_file.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace dca {

namespace {

timespec changed_at(const struct stat& status) {
#if defined(__APPLE__)
    return status.st_mtimespec;
#else
    return status.st_mtim;
#endif
}

}  // namespace

// Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
MappedFile::MappedFile(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_.get() < 0) fail(DCA_ERROR_IO, path, ": cannot be opened: ", std::strerror(errno));
    struct stat status{};
    if (::fstat(descriptor_.get(), &status) != 0) fail(DCA_ERROR_IO, path, ": cannot be examined: ", std::strerror(errno));
    if (!S_ISREG(status.st_mode)) fail(DCA_ERROR_IO, path, S_ISDIR(status.st_mode) ? ": is a folder, not a file" : ": not a regular file");
    size_ = static_cast<size_t>(status.st_size);
    changed_ = changed_at(status);
    if (size_ == 0) fail(DCA_ERROR_FORMAT, path, ": the file is empty");
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_.get(), 0);
    if (mapped == MAP_FAILED) fail(DCA_ERROR_IO, path, ": cannot be mapped: ", std::strerror(errno));
    data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void MappedFile::check_unchanged() const {
    struct stat status{};
    if (::fstat(descriptor_.get(), &status) != 0) fail(DCA_ERROR_IO, path_, ": cannot be examined: ", std::strerror(errno));
    if (static_cast<size_t>(status.st_size) != size_) {
        fail(DCA_ERROR_IO, path_, ": had ", size_, " bytes when it was loaded and has ", status.st_size, " now; load the model again");
    }
    const timespec changed = changed_at(status);
    if (changed.tv_sec != changed_.tv_sec || changed.tv_nsec != changed_.tv_nsec) {
        fail(DCA_ERROR_IO, path_, ": was written to since it was loaded; load the model again");
    }
}

void MappedFile::read(size_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
        const ssize_t got = ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(DCA_ERROR_IO, path_, ": cannot be read: ", std::strerror(errno));
        if (got == 0) fail(DCA_ERROR_IO, path_, ": became shorter while it was read");
        offset += static_cast<size_t>(got);
        out = out.subspan(static_cast<size_t>(got));
    }
}

void release_pages(std::span<const std::byte> mapped) noexcept {
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(mapped.data()) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(mapped.data()) + mapped.size()) / page * page;
    // Read-only pages of a file: nothing is lost, and where the call fails nothing is gained.
    if (begin < end) static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED));
}

}  // namespace dca
