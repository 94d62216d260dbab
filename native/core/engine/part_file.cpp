#include "core/engine/part_file.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace dca {

namespace {

constexpr int kTries = 100;
constexpr std::string_view kSuffix = ".part-";  // then the process's number, a dash, and a number of its own

[[noreturn]] void io_failure(const std::string& path, const char* what) {
    fail(DCA_ERROR_IO, path, ": cannot be ", what, ": ", std::strerror(errno));
}

/// The regular file that `path` is to become: where a link leads, or `path` itself.
std::string place_of(const std::string& path) {
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) return path;  // absent; what else is wrong is said when it is written
    std::array<char, PATH_MAX> real{};
    const bool link = S_ISLNK(status.st_mode);
    if (link && (::realpath(path.c_str(), real.data()) == nullptr || ::stat(real.data(), &status) != 0)) io_failure(path, "followed");
    if (!S_ISREG(status.st_mode)) fail(DCA_ERROR_IO, path, ": is not a regular file; name a file to write");
    return link ? std::string(real.data()) : path;
}

/// Whether `name` is what a process calls the unfinished file of `whole`.
bool is_part_of(std::string_view name, std::string_view whole) {
    if (!name.starts_with(whole) || !name.substr(whole.size()).starts_with(kSuffix)) return false;
    const std::string_view numbers = name.substr(whole.size() + kSuffix.size());
    const auto digit_or_dash = [](char c) { return (c >= '0' && c <= '9') || c == '-'; };
    return std::ranges::all_of(numbers, digit_or_dash) && std::ranges::count(numbers, '-') == 1;
}

/// Removes unfinished files of `path` that no process holds any more.
void remove_abandoned(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "./" : path.substr(0, slash + 1);
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    const auto close = [](DIR* open) { ::closedir(open); };
    const std::unique_ptr<DIR, decltype(close)> entries(::opendir(folder.c_str()), close);
    if (entries == nullptr) return;  // what is wrong with it is said when something is written there
    while (const dirent* entry = ::readdir(entries.get())) {
        if (!is_part_of(entry->d_name, name)) continue;
        const std::string part = folder + entry->d_name;
        const Descriptor file(::open(part.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
        if (file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) static_cast<void>(::unlink(part.c_str()));
    }
}

/// Whether this process holds the file now: another may have taken it for abandoned before it was locked.
bool hold(int file) {
    if (::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
    struct stat status{};
    return ::fstat(file, &status) == 0 && status.st_nlink != 0;
}

}  // namespace

PartFile::PartFile(const std::string& path) : path_(place_of(path)), file_(-1) {
    static std::atomic<uint32_t> counter{0};
    remove_abandoned(path_);
    const std::string start = path_ + std::string(kSuffix) + std::to_string(::getpid()) + "-";
    for (int tries = 0; tries < kTries; ++tries) {
        part_ = start + std::to_string(counter.fetch_add(1));
        // What a conversation holds is its owner's alone.
        file_ = Descriptor(::open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR));
        if (file_.get() < 0 && errno == EEXIST) continue;  // of a process that had this one's number
        if (file_.get() < 0) io_failure(part_, "created");
        if (hold(file_.get())) return;
        static_cast<void>(::unlink(part_.c_str()));
    }
    fail(DCA_ERROR_IO, path_, ": other processes keep removing its unfinished file");
}

PartFile::~PartFile() {
    if (!finished_) static_cast<void>(::unlink(part_.c_str()));
}

void PartFile::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(file_.get(), bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) io_failure(part_, "written");
        bytes = bytes.subspan(static_cast<size_t>(written));
    }
}

void PartFile::finish() {
    if (::rename(part_.c_str(), path_.c_str()) != 0) io_failure(path_, "written");
    finished_ = true;
}

}  // namespace dca
