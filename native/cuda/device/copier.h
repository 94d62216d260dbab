// Copies to and from host memory in a thread and a stream of their own: steps go on meanwhile, in the thread that asks and on the
// card.
//
// The driver holds a stream's copies in a queue of some hundred; who asks for more waits until the card has done most of them. A
// conversation's pages are thousands, so a thread of their own asks for them in pieces, two of which are in the queue.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace dca::cuda {

class Copier {
public:
    /// Asks for a piece of a copy in a stream; throws where the card refuses.
    using Ask = std::function<void(size_t piece, cudaStream_t stream)>;

    explicit Copier(int ordinal) : ordinal_(ordinal) {}
    /// Gives up what has not been asked for; nothing is on its way afterwards.
    ~Copier();
    Copier(const Copier&) = delete;
    Copier& operator=(const Copier&) = delete;

    /// A copy in so many pieces, after those before it: its number.
    uint64_t start(size_t pieces, Ask ask);
    /// Whether that copy and those before it have come to pass; they have if it `waits`. Throws what one of them failed with.
    bool copied(uint64_t number, bool waits);

private:
    struct Copy {
        size_t pieces;
        Ask ask;
    };
    void run();
    void make(const Copy& copy, cudaStream_t stream, const cudaEvent_t (&came)[2]);

    int ordinal_;  // of the card
    std::mutex mutex_;
    std::condition_variable asked_, done_;
    std::deque<Copy> copies_;  // the first of them is number finished_ + 1
    uint64_t finished_ = 0;
    std::exception_ptr failure_;
    bool stopping_ = false;
    std::thread thread_;  // from the first copy on
};

}  // namespace dca::cuda
