// A file that appears whole or not at all: written beside its place, and renamed when it is whole.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "core/gguf/descriptor.h"

namespace dca {

/// What a killed process left of an earlier file of the same name is removed first. A lock tells it from one that another
/// process writes just now; where the file system has no locks, nothing is removed.
class PartFile {
public:
    /// `path`: of the file that appears, or a link to it. Throws an IO error where it is there and is no regular file, or
    /// where nothing can be written beside it.
    explicit PartFile(const std::string& path);
    /// Removes what was written, unless it was finished.
    ~PartFile();
    PartFile(const PartFile&) = delete;
    PartFile& operator=(const PartFile&) = delete;

    /// Throws an IO error, such as for a full disk.
    void write(std::span<const std::byte> bytes);

    /// Puts the file in its place, over one that is there.
    void finish();

private:
    std::string path_, part_;
    Descriptor file_;
    bool finished_ = false;
};

}  // namespace dca
