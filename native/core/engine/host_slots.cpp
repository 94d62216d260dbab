#include "core/engine/host_slots.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "core/backend/backend.h"
#include "core/error.h"
#include "core/machine/available_memory.h"
#include "core/text.h"

namespace dca {

uint32_t HostSlots::add(const KvCache& cache, uint32_t count) {
    const uint64_t bytes = count * cache.host_page_bytes();
    // Pinned memory cannot be pushed out: where it runs short the system ends a process instead of refusing.
    if (const uint64_t available = available_memory(); bytes > available) {
        fail(DCA_ERROR_MEMORY, count, " pages in host memory take ", gigabytes(bytes), ", ", gigabytes(available), " are available");
    }
    std::shared_ptr<std::byte> memory = bytes == 0 ? nullptr : cache.host_memory(bytes);
    const std::lock_guard lock(mutex_);
    if (count > std::numeric_limits<uint32_t>::max() - this->count()) fail(DCA_ERROR_ARGUMENT, "there are too many slots");
    if (count != 0) pieces_.push_back({this->count() + count, std::move(memory)});
    return this->count();
}

std::vector<std::byte*> HostSlots::find(const KvCache& cache, std::span<const uint32_t> slots) const {
    const uint64_t bytes = cache.host_page_bytes();
    std::vector<std::byte*> found;
    found.reserve(slots.size());
    const std::lock_guard lock(mutex_);
    for (const uint32_t slot : slots) {
        const auto piece = std::ranges::upper_bound(pieces_, slot, {}, &Piece::end);
        if (piece == pieces_.end()) fail(DCA_ERROR_ARGUMENT, "slot ", slot, " is not there: there are ", count(), " slots");
        const uint32_t first = piece == pieces_.begin() ? 0 : std::prev(piece)->end;
        found.push_back(piece->memory.get() + (slot - first) * bytes);
    }
    return found;
}

}  // namespace dca
