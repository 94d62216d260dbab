// Room for pages in host memory, in slots of a page each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace dca {

class KvCache;

/// Slots are numbered from 0 on as they come to be. What is in which is the caller's to know.
class HostSlots {
public:
    /// Makes `count` more: how many there are then. Any thread may, while others use those that are there. Throws a memory
    /// error, and makes none.
    uint32_t add(const KvCache& cache, uint32_t count);

    /// Where each of those slots begins. Throws an argument error for one that is not there.
    std::vector<std::byte*> find(const KvCache& cache, std::span<const uint32_t> slots) const;

private:
    struct Piece {
        uint32_t end;  // the slot behind its last
        std::shared_ptr<std::byte> memory;
    };
    uint32_t count() const noexcept { return pieces_.empty() ? 0 : pieces_.back().end; }

    mutable std::mutex mutex_;
    std::vector<Piece> pieces_;
};

}  // namespace dca
