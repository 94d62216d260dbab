// Which pages of a Q4 cache have, for now, a second plane of codes that makes theirs 8 bits: those that are being filled.
// A step reads the pages that it writes to with both planes, all others with the first alone. A page that is full when a step
// ends is settled then: its keys are coded anew, less their mean, which is known now and kept in 16 bits beside them. A
// sequence's first page is settled about its first key instead, which so loses nothing: attention rests on it where nothing else
// matters, and it is far from the others.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/backend/batch.h"
#include "core/engine/page_pool.h"

namespace dca {

class FreshPages {
public:
    static constexpr uint32_t kNone = ~uint32_t{0};

    FreshPages() = default;
    FreshPages(uint32_t pages, uint32_t slots) : slot_(pages, kNone), slots_(slots) {}

    /// As many as a step of so many rows and slices writes to at most, and some for sequences that pause: where more of those
    /// are unfinished, the one that paused longest goes on from what its first plane says.
    static uint32_t slots_for(uint32_t pages, uint32_t rows, uint32_t slices) noexcept {
        constexpr uint64_t pausing = 32;
        return static_cast<uint32_t>(std::min<uint64_t>(pages, std::min<uint64_t>(rows, rows / kPageTokens + 2 * slices) + pausing));
    }

    /// Calls prepare(slot) for every page that the step writes to and that has had no slot: nothing is in it yet; and
    /// open(page) for every page that it writes from its first token on: it has no mean yet.
    template <class Prepare, class Open>
    void begin(const Batch& batch, Prepare prepare, Open open) {
        next_step();
        for (const Slice& slice : batch.slices) {
            for (uint32_t page = slice.start / kPageTokens; page < pages_for(slice.end()); ++page) {
                if (slice.start <= page * kPageTokens) open(slice.pages[page]);
                const bool full = (page + 1) * kPageTokens <= slice.end();
                take(slice.pages[page], full, page == 0, prepare);
            }
        }
    }

    struct Filled {
        uint32_t page;
        bool first;  // of its sequence
    };
    /// Calls settle(Filled) for every page that the step has filled.
    template <class Settle>
    void end(Settle settle) const {
        for (const Slot& slot : slots_)
            if (slot.full && slot.used == step_) settle(Filled{slot.page, slot.first});
    }

    /// Gives `page` the slot of what was copied or loaded into it.
    template <class Prepare>
    void adopt(uint32_t page, Prepare prepare) {
        next_step();
        take(page, false, false, prepare);
    }

    /// Forgets the page's slot: its codes were written from elsewhere.
    void drop(uint32_t page) noexcept {
        if (slot_.empty() || slot_[page] == kNone) return;
        slots_[slot_[page]] = {};
        slot_[page] = kNone;
    }

    uint32_t of(uint32_t page) const noexcept { return slot_.empty() ? kNone : slot_[page]; }
    /// (pages): the slot of each or kNone.
    const std::vector<uint32_t>& by_page() const noexcept { return slot_; }

private:
    struct Slot {
        uint32_t page = kNone;
        bool full = false;  // the page, at the end of the step that used it last
        bool first = false;
        uint64_t used = 0;  // that step
    };

    void next_step() noexcept { ++step_; }

    /// How soon a slot may be given to another page; the least first.
    static uint64_t order(const Slot& slot) noexcept { return slot.page == kNone || slot.full ? 0 : slot.used; }

    template <class Prepare>
    void take(uint32_t page, bool full, bool first, Prepare& prepare) {
        uint32_t number = slot_[page];
        if (number == kNone) {
            uint32_t best = kNone;
            for (uint32_t i = 0; i < slots_.size(); ++i) {
                if (slots_[i].used == step_) continue;
                if (best == kNone || order(slots_[i]) < order(slots_[best])) best = i;
            }
            if (best == kNone) return;
            if (slots_[best].page != kNone) slot_[slots_[best].page] = kNone;
            slot_[page] = number = best;
            prepare(number);
        }
        slots_[number] = {page, full, first, step_};
    }

    std::vector<uint32_t> slot_;  // by page
    std::vector<Slot> slots_;
    uint64_t step_ = 0;
};

}  // namespace dca
