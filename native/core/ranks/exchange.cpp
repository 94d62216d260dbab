#include "core/ranks/exchange.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/error.h"

namespace dca {

namespace {

// Ranks come to a meeting within microseconds of each other; where one has far more to do, the others leave it the processor.
constexpr uint32_t kSpins = 4000, kYields = 1000;
constexpr std::chrono::microseconds kNap{50};

void pause(uint32_t spins) {
    if (spins > kSpins + kYields) {
        std::this_thread::sleep_for(kNap);
    } else if (spins > kSpins) {
        std::this_thread::yield();
    } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

}  // namespace

void Exchange::meet() {
    const uint64_t meeting = meetings_.load(std::memory_order_acquire);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks()) {
        waiting_.store(0, std::memory_order_relaxed);
        meetings_.fetch_add(1, std::memory_order_release);
        return;
    }
    for (uint32_t spins = 0; meetings_.load(std::memory_order_acquire) == meeting; ++spins) {
        if (aborted_.load(std::memory_order_relaxed)) fail(DCA_ERROR_DEVICE, "another rank failed");
        pause(spins);
    }
}

bool Exchange::agree(uint32_t rank, bool yes) {
    std::vector<uint8_t>& answers = answers_[asked_[rank]++ % 2];
    answers[rank] = yes ? 1 : 0;
    meet();
    return std::ranges::count(answers, 0) == 0;
}

void Exchange::reset() {
    std::ranges::fill(asked_, 0u);
    waiting_.store(0);
    aborted_.store(false);
}

}  // namespace dca
