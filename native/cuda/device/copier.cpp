#include "cuda/device/copier.h"

#include <utility>

#include "cuda/device/check.h"
#include "cuda/device/resources.h"

namespace dca::cuda {

namespace {

/// Who waits for it sleeps.
Event make_patient_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "making an event");
    return Event(event);
}

}  // namespace

Copier::~Copier() {
    if (!thread_.joinable()) return;
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    asked_.notify_all();
    thread_.join();
}

uint64_t Copier::start(size_t pieces, Ask ask) {
    const std::lock_guard lock(mutex_);
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    copies_.push_back({pieces, std::move(ask)});
    if (!thread_.joinable()) {
        try {
            thread_ = std::thread([this] { run(); });
        } catch (...) {
            copies_.pop_back();
            throw;
        }
    }
    asked_.notify_all();
    return finished_ + copies_.size();
}

bool Copier::copied(uint64_t number, bool waits) {
    std::unique_lock lock(mutex_);
    if (waits) done_.wait(lock, [&] { return finished_ >= number || failure_ != nullptr; });
    if (finished_ >= number) return true;
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    return false;
}

void Copier::run() {
    try {
        check(cudaSetDevice(ordinal_), "selecting the card");
        const Stream stream = make_stream();
        const Event first = make_patient_event(), second = make_patient_event();
        std::unique_lock lock(mutex_);
        for (;;) {
            asked_.wait(lock, [&] { return stopping_ || !copies_.empty(); });
            if (stopping_) return;
            const Copy& copy = copies_.front();  // others are added behind it
            lock.unlock();
            make(copy, stream.get(), {first.get(), second.get()});
            lock.lock();
            copies_.pop_front();
            ++finished_;
            done_.notify_all();
        }
    } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
        done_.notify_all();
    }
}

void Copier::make(const Copy& copy, cudaStream_t stream, const cudaEvent_t (&came)[2]) {
    const auto stops = [&] {
        const std::lock_guard lock(mutex_);
        return stopping_;
    };
    for (size_t piece = 0; piece < copy.pieces && !stops(); ++piece) {
        check(cudaEventSynchronize(came[piece % 2]), "moving the cache");  // of the piece before the last
        copy.ask(piece, stream);
        check(cudaEventRecord(came[piece % 2], stream), "moving the cache");
    }
    for (const cudaEvent_t event : came) check(cudaEventSynchronize(event), "moving the cache");
}

}  // namespace dca::cuda
