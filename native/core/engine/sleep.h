// Sequences that sleep, and pages that are parked: their keys and values are in host memory, and their pages free for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace dca {

/// Where a sequence's keys and values are, or come from.
struct Asleep {
    std::shared_ptr<std::byte> memory;  // its pages, as the cache copies them (KvCache::start_saving); null: they were parked
    size_t pages = 0;
    std::vector<std::byte> tail;  // KvCache::save_tail of the last one
    bool coming = false;          // on the way back: copy `number`
    uint64_t number = 0;
};

/// Pages that are free once a copy has come to pass.
struct Leaving {
    std::vector<uint32_t> pages;
    std::shared_ptr<std::byte> memory;
    uint64_t number;
};

}  // namespace dca
