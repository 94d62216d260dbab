/* What newer headers and libstdc++.a refer to and glibc 2.28 does not have, by what it had instead.
 * Hidden: each library that is linked for wheels has its own. */
#include <stdarg.h>
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

/* A part of every program that is linked against glibc's libc.so, which is a script and brings libc_nonshared.a along. */
extern void* __dso_handle;
int __cxa_atexit(void (*function)(void*), void* argument, void* library);

int atexit(void (*function)(void)) {
    return __cxa_atexit((void (*)(void*))function, NULL, __dso_handle);
}

/* 2.38: what newer headers make of calls that read numbers, for C23's binary ones (0b101), which nothing here reads.
 * Declared by hand: <stdlib.h> may lead the calls back to here. */
long strtol(const char* text, char** end, int base);
long long strtoll(const char* text, char** end, int base);
unsigned long strtoul(const char* text, char** end, int base);
unsigned long long strtoull(const char* text, char** end, int base);
int __isoc99_vsscanf(const char* text, const char* format, va_list values);

long __isoc23_strtol(const char* text, char** end, int base) { return strtol(text, end, base); }
long long __isoc23_strtoll(const char* text, char** end, int base) { return strtoll(text, end, base); }
unsigned long __isoc23_strtoul(const char* text, char** end, int base) { return strtoul(text, end, base); }
unsigned long long __isoc23_strtoull(const char* text, char** end, int base) { return strtoull(text, end, base); }

int __isoc23_sscanf(const char* text, const char* format, ...) {
    va_list values;
    va_start(values, format);
    const int read = __isoc99_vsscanf(text, format, values);
    va_end(values);
    return read;
}
