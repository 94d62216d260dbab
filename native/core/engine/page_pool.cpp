#include "core/engine/page_pool.h"

#include <numeric>

namespace dca {

PagePool::PagePool(uint32_t pages) : holders_(pages), free_(pages) { std::iota(free_.rbegin(), free_.rend(), 0u); }

uint32_t PagePool::take() noexcept {
    const uint32_t page = free_.back();
    free_.pop_back();
    holders_[page] = 1;
    return page;
}

void PagePool::release(uint32_t page) noexcept {
    if (--holders_[page] == 0) free_.push_back(page);
}

}  // namespace dca
