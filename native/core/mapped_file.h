// A read-only memory map with RAII.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dca {

class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
    const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
    const std::byte* data_ = nullptr;
    size_t size_ = 0;
};

/// Takes whole pages inside a mapped range out of this process's memory; a later read brings them
/// back from the file.
void release_pages(std::span<const std::byte> mapped) noexcept;

}  // namespace dca
