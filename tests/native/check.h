// A test is a function registered with TEST; CHECK records a failure, says which values it compared, and goes on.
#pragma once

#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <type_traits>
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

/// A value as a message shows it: as streams print it, an enumeration by its number, a range by its first values.
template <class T>
std::string shown(const T& value) {
    std::ostringstream out;
    out.precision(9);  // enough to tell any two floats apart
    if constexpr (std::is_same_v<T, bool>) {
        out << (value ? "true" : "false");
    } else if constexpr (std::is_same_v<T, std::nullptr_t>) {
        out << "nullptr";
    } else if constexpr (std::is_enum_v<T>) {
        out << +static_cast<std::underlying_type_t<T>>(value);
    } else if constexpr (std::is_arithmetic_v<T>) {
        out << +value;  // a byte as a number
    } else if constexpr (requires { out << value; }) {
        out << value;
    } else if constexpr (requires { value.begin() != value.end(); }) {
        constexpr int most = 8;
        int count = 0;
        out << "{";
        for (const auto& each : value) {
            if (count < most) out << (count == 0 ? "" : ", ") << shown(each);
            ++count;
        }
        out << (count > most ? ", … " + std::to_string(count) + " in all}" : "}");
    } else {
        out << "?";
    }
    return out.str();
}

struct Outcome {
    bool ok;
    std::string values;  // what was compared, where it failed

    explicit operator bool() const { return ok; }
};

/// The left side of a comparison; `Left op right` compares and remembers both.
template <class L>
struct Left {
    const L& left;

    template <class R, class Compare>
    Outcome compare(const R& right, const char* op, Compare holds) const {
        if (holds(left, right)) return {true, {}};
        return {false, shown(left) + " " + op + " " + shown(right)};
    }
    explicit operator bool() const { return static_cast<bool>(left); }
    operator Outcome() const { return {static_cast<bool>(left), shown(left)}; }

// The comparisons are the test's own: what it may compare directly, it may compare here.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
    template <class R>
    Outcome operator==(const R& right) const {
        return compare(right, "==", [](const auto& a, const auto& b) { return a == b; });
    }
    template <class R>
    Outcome operator!=(const R& right) const {
        return compare(right, "!=", [](const auto& a, const auto& b) { return a != b; });
    }
    template <class R>
    Outcome operator<(const R& right) const {
        return compare(right, "<", [](const auto& a, const auto& b) { return a < b; });
    }
    template <class R>
    Outcome operator<=(const R& right) const {
        return compare(right, "<=", [](const auto& a, const auto& b) { return a <= b; });
    }
    template <class R>
    Outcome operator>(const R& right) const {
        return compare(right, ">", [](const auto& a, const auto& b) { return a > b; });
    }
    template <class R>
    Outcome operator>=(const R& right) const {
        return compare(right, ">=", [](const auto& a, const auto& b) { return a >= b; });
    }
#pragma GCC diagnostic pop
};

/// `Start{} <= a == b` is `(Start{} <= a) == b`: the comparison's left side is caught. (Conditions joined by && or ||
/// are not taken apart.)
struct Start {
    template <class L>
    Left<L> operator<=(const L& left) const {
        return {left};
    }
};

inline void check(const Outcome& outcome, const char* what, const char* file, int line) {
    if (outcome.ok) return;
    ++failures();
    std::fprintf(stderr, "%s:%d: failed: %s, found %s\n", file, line, what, outcome.values.c_str());
}

inline void check(bool ok, const char* what, const char* file, int line) { check(Outcome{ok, "false"}, what, file, line); }

}  // namespace test

#define TEST(name)                                                    \
    static void name();                                               \
    static const test::Registration registration_##name{#name, name}; \
    static void name()

#define CHECK(condition) test::check(test::Start{} <= condition, #condition, __FILE__, __LINE__)

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
