// The library's system calls: the linker (--wrap) sends them here, and they can fail.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "faults/faults.h"

namespace {

bool fails(int error) noexcept {
    if (!fault::fails(fault::system_call)) return false;
    errno = error;
    return true;
}

/// How much of a transfer of `bytes` is done; 0: it was interrupted.
size_t piece_of(size_t bytes) noexcept {
    static std::atomic<unsigned> calls{0};
    if (!fault::choppy()) return bytes;
    const unsigned call = calls.fetch_add(1);
    if (call % 2 != 0) return std::min<size_t>(bytes, 1 + call % 7);
    errno = EINTR;
    return 0;
}

}  // namespace

extern "C" {

int __real_open(const char* path, int flags, ...);
int __real_close(int descriptor);
int __real_fstat(int descriptor, struct stat* status);
int __real_flock(int descriptor, int operation);
int __real_rename(const char* from, const char* to);
ssize_t __real_read(int descriptor, void* out, size_t bytes);
ssize_t __real_pread(int descriptor, void* out, size_t bytes, off_t offset);
ssize_t __real_write(int descriptor, const void* in, size_t bytes);
void* __real_mmap(void* at, size_t bytes, int protection, int flags, int descriptor, off_t offset);
int __real_munmap(void* at, size_t bytes);
DIR* __real_opendir(const char* path);

int __wrap_open(const char* path, int flags, ...) {
    mode_t mode = 0;
    if ((flags & O_CREAT) != 0) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    if (fails((flags & O_CREAT) != 0 ? ENOSPC : EMFILE)) return -1;
    const int descriptor = __real_open(path, flags, mode);
    if (descriptor >= 0) fault::count_descriptor(1);
    return descriptor;
}

int __wrap_close(int descriptor) {
    fault::count_descriptor(-1);
    return __real_close(descriptor);
}

int __wrap_fstat(int descriptor, struct stat* status) { return fails(EIO) ? -1 : __real_fstat(descriptor, status); }

int __wrap_flock(int descriptor, int operation) { return fails(ENOLCK) ? -1 : __real_flock(descriptor, operation); }

int __wrap_rename(const char* from, const char* to) { return fails(EACCES) ? -1 : __real_rename(from, to); }

ssize_t __wrap_read(int descriptor, void* out, size_t bytes) {
    if (fails(EIO)) return -1;
    const size_t piece = piece_of(bytes);
    return piece == 0 && bytes != 0 ? -1 : __real_read(descriptor, out, piece);
}

ssize_t __wrap_pread(int descriptor, void* out, size_t bytes, off_t offset) {
    if (fails(EIO)) return -1;
    const size_t piece = piece_of(bytes);
    return piece == 0 && bytes != 0 ? -1 : __real_pread(descriptor, out, piece, offset);
}

ssize_t __wrap_write(int descriptor, const void* in, size_t bytes) {
    if (fails(ENOSPC)) return -1;
    const size_t piece = piece_of(bytes);
    return piece == 0 && bytes != 0 ? -1 : __real_write(descriptor, in, piece);
}

void* __wrap_mmap(void* at, size_t bytes, int protection, int flags, int descriptor, off_t offset) {
    if (fails(ENOMEM)) return MAP_FAILED;
    void* memory = __real_mmap(at, bytes, protection, flags, descriptor, offset);
    if (memory != MAP_FAILED) fault::count_map(1);
    return memory;
}

int __wrap_munmap(void* at, size_t bytes) {
    fault::count_map(-1);
    return __real_munmap(at, bytes);
}

DIR* __wrap_opendir(const char* path) { return fails(EACCES) ? nullptr : __real_opendir(path); }

}  // extern "C"
