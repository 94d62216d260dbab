#include "core/engine/sleep.h"

#include <utility>

#include "core/engine/engine.h"
#include "core/error.h"

namespace dca {

namespace {

/// Where the pages of a sequence lie in memory of its own.
std::vector<std::byte*> back_to_back(std::byte* memory, size_t pages, uint64_t page_bytes) {
    std::vector<std::byte*> all;
    all.reserve(pages);
    for (size_t page = 0; page < pages; ++page) all.push_back(memory + page * page_bytes);
    return all;
}

}  // namespace

void Sequence::sleep() {
    if (asleep()) return;
    settle();
    if (pages_.empty()) return;
    KvCache& cache = engine_.cache();
    auto asleep = std::make_unique<Asleep>();
    asleep->pages = pages_.size();
    asleep->memory = cache.host_memory(pages_.size() * cache.host_page_bytes());
    if (const uint32_t held = length() % kPageTokens; held != 0 && cache.tail_bytes() != 0) {
        asleep->tail.resize(cache.tail_bytes());
        cache.save_tail(pages_.back(), held, asleep->tail.data());
    }
    const std::vector<std::byte*> memory = back_to_back(asleep->memory.get(), pages_.size(), cache.host_page_bytes());
    Leaving& leaving = engine_.leaving_.emplace_back();
    try {
        leaving = {pages_, asleep->memory, cache.start_saving(pages_, memory)};
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
    KvCache& cache = engine_.cache();
    const std::vector<std::byte*> memory = back_to_back(asleep_->memory.get(), pages, cache.host_page_bytes());
    pages_.reserve(pages);
    while (pages_.size() < pages) pages_.push_back(engine_.pool_.take());
    try {
        asleep_->number = cache.start_loading(pages_, memory);
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

bool Sequence::in_place() {
    if (asleep()) return false;
    if (asleep_ != nullptr && engine_.cache().copied(asleep_->number, false)) asleep_.reset();
    return asleep_ == nullptr;
}

void Sequence::park(uint32_t first, std::span<const uint32_t> slots) {
    wake();  // what is on its way is there before it leaves again: copies keep their order
    const uint32_t whole = length() / kPageTokens;
    if (first > whole || slots.size() > whole - first) {
        fail(DCA_ERROR_ARGUMENT, "pages ", first, " to ", first + slots.size(), " are to be parked, the sequence has ", whole,
             " whole ones");
    }
    if (slots.empty()) return;
    KvCache& cache = engine_.cache();
    const std::span<const uint32_t> pages = std::span(pages_).subspan(first, slots.size());
    const std::vector<std::byte*> memory = engine_.slots_->find(cache, slots);
    Leaving& leaving = engine_.leaving_.emplace_back();
    try {
        leaving.pages.assign(pages.begin(), pages.end());
        leaving.number = cache.start_saving(pages, memory);
    } catch (...) {
        engine_.leaving_.pop_back();
        throw;
    }
    for (const uint32_t page : pages) engine_.pool_.retain(page);
    engine_.await_free(0);
}

void Sequence::unpark(std::span<const int32_t> tokens, std::span<const uint32_t> slots) {
    wake();
    if (length() % kPageTokens != 0 || tokens.size() != slots.size() * kPageTokens) {
        fail(DCA_ERROR_ARGUMENT, "pages hold ", kPageTokens, " tokens: a sequence of ", length(), " tokens cannot get ", tokens.size(),
             " more as ", slots.size(), " whole pages");
    }
    if (slots.empty()) return;
    KvCache& cache = engine_.cache();
    const std::vector<std::byte*> memory = engine_.slots_->find(cache, slots);
    std::unique_ptr<Asleep> coming = asleep_ == nullptr ? std::make_unique<Asleep>() : nullptr;
    const uint32_t before = length();
    engine_.adopt(*this, tokens);
    uint64_t number;
    try {
        number = cache.start_loading(std::span(pages_).subspan(before / kPageTokens), memory);
    } catch (...) {
        truncate(before);
        throw;
    }
    if (asleep_ == nullptr) asleep_ = std::move(coming);
    asleep_->coming = true;
    asleep_->number = number;  // what came before has come to pass by then
}

void Sequence::leave_behind(size_t kept) {
    const bool comes = pages_.size() > kept && asleep_ != nullptr && asleep_->coming;
    if (comes && !engine_.cache().copied(asleep_->number, false)) {
        engine_.leaving_.push_back({{pages_.begin() + static_cast<std::ptrdiff_t>(kept), pages_.end()}, asleep_->memory, asleep_->number});
        pages_.resize(kept);
    }
    for (; pages_.size() > kept; pages_.pop_back()) engine_.pool_.release(pages_.back());
}

void Engine::await_free(uint64_t pages) {
    while (!leaving_.empty() && cache_->copied(leaving_.front().number, pages > pool_.free())) {
        for (const uint32_t page : leaving_.front().pages) pool_.release(page);
        leaving_.pop_front();
    }
}

uint32_t Engine::pages_leaving() const noexcept {
    uint32_t pages = 0;
    for (const Leaving& leaving : leaving_) {
        for (const uint32_t page : leaving.pages) pages += pool_.shared(page) ? 0 : 1;
    }
    return pages;
}

}  // namespace dca
