// A read-only memory map with RAII.
#pragma once

#include <cstddef>
#include <ctime>
#include <span>
#include <string>

#include "core/gguf/descriptor.h"

namespace dca {

/// A file stays open while it is mapped, so that it can be told when somebody else changes it: what lies past the end of
/// a file that was cut kills the process that reads it, and bytes written over it are seen in the map.
class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
    const std::string& path() const noexcept { return path_; }

    /// Throws an IO error if the file's size or time of change is not what it was when it was mapped. A system call.
    void check_unchanged() const;

    /// Copies the bytes from `offset` on, without going through the map. Throws an IO error if the file has fewer.
    void read(size_t offset, std::span<std::byte> out) const;

private:
    std::string path_;
    Descriptor descriptor_;
    timespec changed_{};
    const std::byte* data_ = nullptr;
    size_t size_ = 0;
};

/// Takes whole pages inside a mapped range out of this process's memory; a later read brings them
/// back from the file.
void release_pages(std::span<const std::byte> mapped) noexcept;

}  // namespace dca
