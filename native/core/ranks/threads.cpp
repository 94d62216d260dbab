#include "core/ranks/threads.h"

#include <chrono>

namespace dca {

namespace {

// Between the calls of a decoded token a thread should not fall asleep: waking takes about as long as they do.
constexpr std::chrono::microseconds kAwake{200};

/// Returns the first value of `of` that is not `old`.
uint32_t changed(const std::atomic<uint32_t>& of, uint32_t old) noexcept {
    const auto until = std::chrono::steady_clock::now() + kAwake;
    for (uint32_t spins = 1;; ++spins) {
        const uint32_t now = of.load(std::memory_order_acquire);
        if (now != old) return now;
        if (spins % 64 == 0 && std::chrono::steady_clock::now() > until) of.wait(old, std::memory_order_acquire);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

}  // namespace

RankThreads::RankThreads(uint32_t ranks) : errors_(ranks) {
    try {
        for (uint32_t rank = 1; rank < ranks; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    } catch (...) {
        stop_.store(true);
        generation_.fetch_add(1);
        generation_.notify_all();
        for (std::thread& thread : threads_) thread.join();
        throw;
    }
}

RankThreads::~RankThreads() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void RankThreads::call(uint32_t rank) noexcept {
    try {
        (*work_)(rank);
    } catch (...) {
        errors_[rank] = std::current_exception();
        int32_t none = -1;
        if (first_error_.compare_exchange_strong(none, static_cast<int32_t>(rank))) (*failed_)();
    }
}

void RankThreads::serve(uint32_t rank) {
    for (uint32_t seen = 0;;) {
        seen = changed(generation_, seen);
        if (stop_.load()) return;
        call(rank);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
    }
}

void RankThreads::run(const std::function<void(uint32_t)>& work, const std::function<void()>& failed) {
    const std::lock_guard lock(in_use_);
    work_ = &work;
    failed_ = &failed;
    first_error_.store(-1);
    busy_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    call(0);
    for (uint32_t busy = busy_.load(std::memory_order_acquire); busy != 0;) busy = changed(busy_, busy);
    const int32_t first = first_error_.load();
    if (first < 0) return;
    const std::exception_ptr error = errors_[static_cast<size_t>(first)];
    for (std::exception_ptr& each : errors_) each = nullptr;
    std::rethrow_exception(error);
}

}  // namespace dca
