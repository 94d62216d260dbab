#include "core/engine/sleep.h"

#include <utility>

#include "core/engine/engine.h"
#include "core/error.h"

namespace dca {

void Sequence::sleep() {
    if (asleep()) return;
    settle();
    if (pages_.empty()) return;
    KvCache& cache = engine_.cache();
    auto asleep = std::make_unique<Asleep>();
    asleep->pages = pages_.size();
    asleep->memory = cache.host_memory(pages_.size() * cache.page_bytes());
    if (const uint32_t held = length() % kPageTokens; held != 0 && cache.tail_bytes() != 0) {
        asleep->tail.resize(cache.tail_bytes());
        cache.save_tail(pages_.back(), held, asleep->tail.data());
    }
    Leaving& leaving = engine_.leaving_.emplace_back();
    try {
        leaving = {pages_, asleep->memory, cache.start_saving(pages_, asleep->memory.get())};
    } catch (...) {
        engine_.leaving_.pop_back();
        throw;
    }
    pages_.clear();
    asleep_ = std::move(asleep);
    engine_.await_free(0);
}

void Sequence::wake() {
    if (!asleep()) return;
    const auto pages = static_cast<uint32_t>(asleep_->pages);
    engine_.await_free(pages);
    if (pages > engine_.pool_.free()) {
        fail(DCA_ERROR_CONTEXT, "a sleeping sequence of ", length(), " tokens takes ", pages, " pages of ", kPageTokens, ", ",
             engine_.pool_.free(), " are free; close or shorten sequences, or let them sleep");
    }
    pages_.reserve(pages);
    while (pages_.size() < pages) pages_.push_back(engine_.pool_.take());
    try {
        KvCache& cache = engine_.cache();
        asleep_->number = cache.start_loading(pages_, asleep_->memory.get());
        asleep_->coming = true;
        if (!asleep_->tail.empty()) cache.load_tail(pages_.back(), asleep_->tail.data());
    } catch (...) {
        asleep_->coming = false;
        for (; !pages_.empty(); pages_.pop_back()) engine_.pool_.release(pages_.back());
        throw;
    }
}

void Sequence::settle() {
    wake();
    if (asleep_ == nullptr) return;
    static_cast<void>(engine_.cache().copied(asleep_->number, true));
    asleep_.reset();
}

void Engine::await_free(uint64_t pages) {
    while (!leaving_.empty() && cache_->copied(leaving_.front().number, pages > pool_.free())) {
        for (const uint32_t page : leaving_.front().pages) pool_.release(page);
        leaving_.pop_front();
    }
}

}  // namespace dca
