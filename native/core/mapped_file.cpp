#include "core/mapped_file.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace dca {

MappedFile::MappedFile(const std::string& path) : path_(path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) fail(DCA_ERROR_IO, path, ": cannot be opened: ", std::strerror(errno));
    struct stat status{};
    if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(descriptor);
        fail(DCA_ERROR_IO, path, ": not a regular file");
    }
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0) {
        ::close(descriptor);
        fail(DCA_ERROR_FORMAT, path, ": the file is empty");
    }
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    ::close(descriptor);
    if (mapped == MAP_FAILED) fail(DCA_ERROR_IO, path, ": cannot be mapped: ", std::strerror(error));
    data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), size_); }

void release_pages(std::span<const std::byte> mapped) noexcept {
    const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(mapped.data()) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(mapped.data()) + mapped.size()) / page * page;
    // Read-only pages of a file: nothing is lost, and where the call fails nothing is gained.
    if (begin < end) static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED));
}

}  // namespace dca
