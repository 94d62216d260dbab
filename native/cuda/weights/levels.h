// Four-bit codes that stand for levels of a table, looked up eight at a time; host and device.
#pragma once

#include <cstdint>

#include "core/blocks/layouts.h"
#include "core/positions/host_device.h"

namespace dca::cuda {

/// What a code stands for: itself, less an offset, or a level of a table (core/blocks/layouts.h).
enum class Levels { Linear, IQ4, FP4 };

/// Levels 4 w ... 4 w + 3 of a table as bytes, each plus `bias`.
template <Levels kLevels>
constexpr uint32_t level_word(int w, int bias) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
        const int level = kLevels == Levels::IQ4 ? kIQ4NLValues[4 * w + i] : kMXFP4Values[4 * w + i];
        word |= uint32_t{static_cast<uint8_t>(level + bias)} << 8 * i;
    }
    return word;
}
/// A whole table: constants, so that code for a card needs no function of the host's.
template <Levels kLevels, int kBias>
struct LevelWords {
    static constexpr uint32_t k0 = level_word<kLevels>(0, kBias), k1 = level_word<kLevels>(1, kBias);
    static constexpr uint32_t k2 = level_word<kLevels>(2, kBias), k3 = level_word<kLevels>(3, kBias);
};
/// FP4's levels as the upper bytes of f16, whose lower bytes are zero.
struct UpperHalves {
    static constexpr uint32_t k0 = 0x42403c00, k1 = 0x4a484644, k2 = k0 | 0x80808080, k3 = k1 | 0x80808080;
};

/// Bytes of a (0 ... 3) and b (4 ... 7), chosen by the low four nibbles of `selector`; where a nibble's fourth bit is set, eight
/// copies of that byte's first bit. (__byte_perm masks the fourth bits away, in an instruction of its own.)
DCA_HOST_DEVICE uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDA_ARCH__)
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
#else
    uint32_t bytes = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t nibble = selector >> 4 * i & 15, byte = (nibble & 4 ? b : a) >> 8 * (nibble & 3) & 255;
        bytes |= (nibble < 8 ? byte : byte < 128 ? 0u : 255u) << 8 * i;
    }
    return bytes;
#endif
}

/// The bytes of a table of 16 for the eight codes of a low word, in their order. A byte permutation looks up four codes of three
/// bits at once: one in each half of the table, and a third takes of the two results what the fourth bits say.
template <class Level>
DCA_HOST_DEVICE void look_up(uint32_t codes, uint32_t (&bytes)[2]) {
    const uint32_t within = codes & 0x77777777u, half = (codes >> 1 & 0x44444444u) | 0x32103210u;
    for (int n = 0; n < 2; ++n) {
        const uint32_t low = choose_bytes(Level::k0, Level::k1, within >> 16 * n);
        const uint32_t high = choose_bytes(Level::k2, Level::k3, within >> 16 * n);
        bytes[n] = choose_bytes(low, high, half >> 16 * n);
    }
}

/// Levels as sums of two signed bytes, less kBias: sums of products take one after the other and need no third permutation. The
/// codes of either half choose a byte of their own table, and of the other one only copies of a first bit, which is the same in
/// all of its bytes: 0 or -1.
template <Levels kLevels>
struct SplitLevels;
template <>
struct SplitLevels<Levels::IQ4> {  // below: negative levels, -1 for other codes; above: levels + 1, 0 for other codes
    static constexpr int kBias = 0;
    static constexpr uint32_t k0 = level_word<Levels::IQ4>(0, 0), k1 = level_word<Levels::IQ4>(1, 0);
    static constexpr uint32_t k2 = level_word<Levels::IQ4>(2, 1), k3 = level_word<Levels::IQ4>(3, 1);
};
template <>
struct SplitLevels<Levels::FP4> {  // below: levels from 0 on, 0 for other codes; above: levels - 1, -1 for other codes
    static constexpr int kBias = -1;
    static constexpr uint32_t k0 = level_word<Levels::FP4>(0, 0), k1 = level_word<Levels::FP4>(1, 0);
    static constexpr uint32_t k2 = level_word<Levels::FP4>(2, -1), k3 = level_word<Levels::FP4>(3, -1);
};

/// Those bytes for the eight codes of a low word; `first` and `third` are k0 and k2.
template <class Split>
DCA_HOST_DEVICE void look_up_split(uint32_t codes, uint32_t first, uint32_t third, uint32_t (&below)[2], uint32_t (&above)[2]) {
    const uint32_t other = codes ^ 0x88888888u;
    for (int n = 0; n < 2; ++n) {
        below[n] = choose_bytes(first, Split::k1, codes >> 16 * n);
        above[n] = choose_bytes(third, Split::k3, other >> 16 * n);
    }
}

}  // namespace dca::cuda
