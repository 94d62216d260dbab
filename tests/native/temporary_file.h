// A file that goes when its object does.
#pragma once

#include <cstdio>
#include <string>
#include <unistd.h>

namespace test {

class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& bytes) {
        char name[] = "/tmp/dca_test_XXXXXX";
        const int descriptor = ::mkstemp(name);
        path_ = name;
        std::FILE* file = ::fdopen(descriptor, "wb");
        std::fwrite(bytes.data(), 1, bytes.size(), file);
        std::fclose(file);
    }
    ~TemporaryFile() { ::unlink(path_.c_str()); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

}  // namespace test
