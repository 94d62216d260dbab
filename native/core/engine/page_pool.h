// Which pages of a cache are free, and how many sequences hold each of the others.
#pragma once

#include <cstdint>
#include <vector>

namespace dca {

constexpr uint32_t kPageTokens = 128;  // tokens of a page

constexpr uint32_t pages_for(uint64_t tokens) noexcept { return static_cast<uint32_t>((tokens + kPageTokens - 1) / kPageTokens); }

/// Not for use by several threads at once.
class PagePool {
public:
    explicit PagePool(uint32_t pages);

    uint32_t size() const noexcept { return static_cast<uint32_t>(holders_.size()); }
    uint32_t free() const noexcept { return static_cast<uint32_t>(free_.size()); }

    /// A free page, now held once. There must be one. Pages come in ascending order from a pool that was never used, so
    /// that a sequence's pages lie back to back in memory where that can be.
    uint32_t take() noexcept;
    void retain(uint32_t page) noexcept { ++holders_[page]; }
    void release(uint32_t page) noexcept;
    bool shared(uint32_t page) const noexcept { return holders_[page] > 1; }

private:
    std::vector<uint32_t> holders_;  // by page; 0: free
    std::vector<uint32_t> free_;     // the next one to take is last; has room for all
};

}  // namespace dca
