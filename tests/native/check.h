// A test is a function registered with TEST; CHECK records a failure and goes on.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace test {

struct Case {
    const char* name;
    std::function<void()> body;
};

inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Registration {
    Registration(const char* name, std::function<void()> body) { cases().push_back({name, std::move(body)}); }
};

inline void check(bool ok, const char* what, const char* file, int line) {
    if (ok) return;
    ++failures();
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
}

}  // namespace test

#define TEST(name)                                                    \
    static void name();                                               \
    static const test::Registration registration_##name{#name, name}; \
    static void name()

#define CHECK(condition) test::check((condition), #condition, __FILE__, __LINE__)

/// The statement must throw dca::Error with this status.
#define CHECK_ERROR(statement, expected_status)                                    \
    do {                                                                           \
        bool seen = false;                                                         \
        try {                                                                      \
            statement;                                                             \
        } catch (const dca::Error& error) {                                        \
            seen = error.status() == (expected_status);                            \
            if (!seen) std::fprintf(stderr, "other error: %s\n", error.what());    \
        }                                                                          \
        test::check(seen, #statement " -> " #expected_status, __FILE__, __LINE__); \
    } while (false)
