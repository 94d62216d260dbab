// A thread for each rank but the first, whose work the caller does.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dca {

class RankThreads {
public:
    explicit RankThreads(uint32_t ranks);
    ~RankThreads();
    RankThreads(const RankThreads&) = delete;
    RankThreads& operator=(const RankThreads&) = delete;

    uint32_t ranks() const noexcept { return static_cast<uint32_t>(errors_.size()); }

    /// Calls work(rank) for every rank, each in its thread, and waits for all. Where some throw, `failed` is called in the
    /// first one's thread at once, and what that one threw is thrown here. One caller at a time; others wait.
    void run(const std::function<void(uint32_t rank)>& work, const std::function<void()>& failed = [] {});

private:
    void serve(uint32_t rank);
    void call(uint32_t rank) noexcept;

    std::mutex in_use_;
    const std::function<void(uint32_t)>* work_ = nullptr;
    const std::function<void()>* failed_ = nullptr;
    std::atomic<int32_t> first_error_{-1};
    std::vector<std::exception_ptr> errors_;  // by rank
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<uint32_t> busy_{0};
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

}  // namespace dca
