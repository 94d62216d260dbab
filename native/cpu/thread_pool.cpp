#include "cpu/thread_pool.h"

namespace dca::cpu {

namespace {

// About 50 microseconds: longer than the pauses between a token's loops, shorter than anyone notices.
constexpr int kSpinsBeforeSleep = 4000;

void pause() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // yield takes no time on most cores
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    try {
        for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { work(worker); });
    } catch (...) {
        // Fewer threads than asked for compute the same.
    }
}

ThreadPool::~ThreadPool() {
    stop_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::drain(int worker) noexcept {
    for (int task = next_task_.fetch_add(1, std::memory_order_relaxed); task < tasks_;
         task = next_task_.fetch_add(1, std::memory_order_relaxed)) {
        call_(context_, task, worker);
    }
}

void ThreadPool::work(int worker) {
    uint32_t seen = 0;
    while (true) {
        int spins = 0;
        while (generation_.load(std::memory_order_acquire) == seen) {
            if (++spins < kSpinsBeforeSleep) {
                pause();
            } else {
                generation_.wait(seen, std::memory_order_acquire);
            }
        }
        seen = generation_.load(std::memory_order_acquire);
        if (stop_.load()) return;
        drain(worker);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
    }
}

void ThreadPool::run_erased(int tasks, Call call, void* context) {
    if (tasks <= 0) return;
    if (workers_.empty() || tasks == 1) {
        for (int task = 0; task < tasks; ++task) call(context, task, 0);
        return;
    }
    const std::lock_guard lock(in_use_);
    call_ = call;
    context_ = context;
    tasks_ = tasks;
    next_task_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    drain(0);
    int spins = 0;
    for (int busy = busy_.load(std::memory_order_acquire); busy != 0; busy = busy_.load(std::memory_order_acquire)) {
        if (++spins < kSpinsBeforeSleep) {
            pause();
        } else {
            busy_.wait(busy, std::memory_order_acquire);
        }
    }
}

}  // namespace dca::cpu
