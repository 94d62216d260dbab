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
    static constexpr bool kNegative = (k0 & k1 & k2 & k3 & 0x80808080u) == 0x80808080u;  // every byte, as a signed one
};
/// FP4's levels as the upper bytes of f16, whose lower bytes are zero.
struct UpperHalves {
    static constexpr uint32_t k0 = 0x42403c00, k1 = 0x4a484644, k2 = k0 | 0x80808080, k3 = k1 | 0x80808080;
    static constexpr bool kNegative = false;
};

#if defined(__CUDA_ARCH__)
/// Bytes of a (0 ... 3) and b (4 ... 7), chosen by the low four nibbles of `selector`; where a nibble's fourth bit is set, eight
/// copies of that byte's first bit. (__byte_perm masks the fourth bits away, in an instruction of its own.)
__device__ __forceinline__ uint32_t choose_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
    return bytes;
}
#endif

/// The bytes of a table of 16 for the eight codes of a low word, in their order; `first` and `third` are its words k0 and k2.
/// A byte permutation looks up four codes of three bits at once: one in each half of the table, and a third takes of the two
/// results what the fourth bits say. Where all bytes are negative, a fourth bit that is not a half's makes its permutation give
/// ones, and both results together are what was looked for.
template <class Level>
DCA_HOST_DEVICE void look_up(uint32_t codes, uint32_t first, uint32_t third, uint32_t (&bytes)[2]) {
#if defined(__CUDA_ARCH__)
    if constexpr (Level::kNegative) {
        const uint32_t other = codes ^ 0x88888888u;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            bytes[n] = choose_bytes(first, Level::k1, codes >> 16 * n) & choose_bytes(third, Level::k3, other >> 16 * n);
        }
        return;
    }
    const uint32_t within = codes & 0x77777777u, half = (codes >> 1 & 0x44444444u) | 0x32103210u;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
        const uint32_t low = choose_bytes(first, Level::k1, within >> 16 * n);
        const uint32_t high = choose_bytes(third, Level::k3, within >> 16 * n);
        bytes[n] = choose_bytes(low, high, half >> 16 * n);
    }
#else
    const uint32_t level[4] = {first, Level::k1, third, Level::k3};
    for (int n = 0; n < 2; ++n) {
        bytes[n] = 0;
        for (int i = 0; i < 4; ++i) {
            const uint32_t code = codes >> 4 * (4 * n + i) & 15;
            bytes[n] |= (level[code / 4] >> 8 * (code % 4) & 255) << 8 * i;
        }
    }
#endif
}
template <class Level>
DCA_HOST_DEVICE void look_up(uint32_t codes, uint32_t (&bytes)[2]) {
    look_up<Level>(codes, Level::k0, Level::k2, bytes);
}

}  // namespace dca::cuda
