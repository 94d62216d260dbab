// Threads that run one parallel loop after another. Workers spin briefly before they sleep, so
// the hundreds of short loops of a decoded token cost no system call each.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace dca::cpu {

class ThreadPool {
public:
    /// `threads` in all, the caller of run() included; at least 1.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

    /// Calls body(task, worker) for every task in [0, tasks), handed out in order; worker is
    /// below threads() and names who runs it, for scratch memory. Bodies must not throw.
    template <class Body>
    void run(int tasks, Body&& body) {
        run_erased(tasks, [](void* context, int task, int worker) { (*static_cast<Body*>(context))(task, worker); }, &body);
    }

private:
    using Call = void (*)(void* context, int task, int worker);
    void run_erased(int tasks, Call call, void* context);
    void work(int worker);
    void drain(int worker) noexcept;

    std::mutex in_use_;  // sessions of one model share the pool
    Call call_ = nullptr;
    void* context_ = nullptr;
    int tasks_ = 0;
    alignas(64) std::atomic<int> next_task_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<int> busy_{0};
    std::atomic<bool> stop_{false};
    std::vector<std::thread> workers_;
};

}  // namespace dca::cpu
