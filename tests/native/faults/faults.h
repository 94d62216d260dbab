// Faults on demand: doubles of the allocator, of system calls and of the device fail their n-th call (SQLite's habit).
//
// The whole test program runs over these doubles: operator new and delete are replaced (allocator.cpp), the linker sends
// the library's system calls (system_calls.cpp) and its making of a backend (device.cpp) here. Unarmed, all pass through.
#pragma once

#include <cstdint>

namespace fault {

enum Kind { none, allocation, system_call, device };

/// What follows the n-th call: it alone fails, or all from then on do (memory is gone, the card is lost).
enum class Then { recovers, stays };

/// While it lives, calls of one kind are counted, in all threads together, and the n-th (from 1 on) fails.
class Armed {
public:
    Armed(Kind kind, uint64_t n, Then then);
    ~Armed();
    Armed(const Armed&) = delete;
    Armed& operator=(const Armed&) = delete;

    bool struck() const noexcept;
};

/// While it lives, the library's reads and writes come in pieces: every other one is interrupted, the rest do 1 to 7 bytes.
class Choppy {
public:
    Choppy();
    ~Choppy();
    Choppy(const Choppy&) = delete;
    Choppy& operator=(const Choppy&) = delete;
};

/// What the library holds.
struct Held {
    int64_t allocations, maps, descriptors;
};
Held held() noexcept;

// For the doubles.
bool fails(Kind kind) noexcept;
bool choppy() noexcept;
void count_allocation(int by) noexcept;
void count_map(int by) noexcept;
void count_descriptor(int by) noexcept;

}  // namespace fault
