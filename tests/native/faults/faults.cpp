#include "faults/faults.h"

#include <atomic>

namespace fault {

namespace {

std::atomic<Kind> armed_kind{none};
std::atomic<uint64_t> calls_left{0};
std::atomic<bool> stays{false}, has_struck{false}, in_pieces{false};
std::atomic<int64_t> allocations{0}, maps{0}, descriptors{0};

}  // namespace

Armed::Armed(Kind kind, uint64_t n, Then then) {
    calls_left = n;
    stays = then == Then::stays;
    has_struck = false;
    armed_kind = kind;
}

Armed::~Armed() { armed_kind = none; }

bool Armed::struck() const noexcept { return has_struck; }

Choppy::Choppy() { in_pieces = true; }
Choppy::~Choppy() { in_pieces = false; }

Held held() noexcept { return {allocations, maps, descriptors}; }

bool fails(Kind kind) noexcept {
    if (armed_kind.load(std::memory_order_relaxed) != kind) return false;
    if (has_struck) return stays;
    if (calls_left.fetch_sub(1) != 1) return false;
    has_struck = true;
    return true;
}

bool choppy() noexcept { return in_pieces; }
void count_allocation(int by) noexcept { allocations.fetch_add(by, std::memory_order_relaxed); }
void count_map(int by) noexcept { maps.fetch_add(by, std::memory_order_relaxed); }
void count_descriptor(int by) noexcept { descriptors.fetch_add(by, std::memory_order_relaxed); }

}  // namespace fault
