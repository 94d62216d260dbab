/* What newer headers and libstdc++.a refer to and glibc 2.28 does not have, by what it had instead.
 * Hidden: each library that is linked for wheels has its own. */
#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>

struct stat;

/* Before 2.33 the functions of <sys/stat.h> were inline calls of these, with the version of struct stat. */
#if defined(__x86_64__)
enum { kStatVersion = 1 };
#elif defined(__aarch64__)
enum { kStatVersion = 0 };
#else
#error "which version of struct stat?"
#endif

int __fxstat(int version, int file, struct stat* out);
int __xstat(int version, const char* path, struct stat* out);
int __lxstat(int version, const char* path, struct stat* out);

int fstat(int file, struct stat* out) { return __fxstat(kStatVersion, file, out); }
int stat(const char* path, struct stat* out) { return __xstat(kStatVersion, path, out); }
int lstat(const char* path, struct stat* out) { return __lxstat(kStatVersion, path, out); }

/* The same struct on machines of 64 bits. */
int fstat64(int file, struct stat* out) { return __fxstat(kStatVersion, file, out); }
int stat64(const char* path, struct stat* out) { return __xstat(kStatVersion, path, out); }

/* 2.36. libstdc++'s random_device asks for it. */
uint32_t arc4random(void) {
    uint32_t value = 0;
    while (getrandom(&value, sizeof value, 0) != sizeof value) continue;
    return value;
}

/* 2.32: whether a process has one thread only, so that counters need not be atomic. They always are, then. */
char __libc_single_threaded = 0;
