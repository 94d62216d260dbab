// A 64-bit hash that runs at the speed of memory: for damage, not against forgers.
//
// Four lanes over 8-byte words, each mixing a word in by exclusive or, a rotation and a product with an odd constant
// (2^64 over the golden ratio). Every step is a bijection of its lane, so bytes that differ within one word always give
// another hash.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace dca {

class Checksum {
public:
    explicit Checksum(uint64_t seed = 0) : lanes_{seed + 1, seed + 2, seed + 3, seed + 4} {}

    void add(std::span<const std::byte> bytes) noexcept {
        length_ += bytes.size();
        while (bytes.size() >= sizeof lanes_) {
            std::array<uint64_t, 4> words;
            std::memcpy(words.data(), bytes.data(), sizeof words);
            for (size_t i = 0; i < words.size(); ++i) lanes_[i] = mixed(lanes_[i], words[i]);
            bytes = bytes.subspan(sizeof words);
        }
        for (const std::byte byte : bytes) lanes_[0] = mixed(lanes_[0], static_cast<uint64_t>(byte));
    }

    uint64_t value() const noexcept {
        uint64_t hash = length_;
        for (const uint64_t lane : lanes_) hash = mixed(hash, lane);
        return hash ^ hash >> 32;
    }

private:
    static constexpr uint64_t mixed(uint64_t state, uint64_t word) noexcept { return std::rotl(state ^ word, 29) * 0x9e3779b97f4a7c15u; }

    std::array<uint64_t, 4> lanes_;
    uint64_t length_ = 0;
};

inline uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed = 0) noexcept {
    Checksum sum(seed);
    sum.add(bytes);
    return sum.value();
}

}  // namespace dca
