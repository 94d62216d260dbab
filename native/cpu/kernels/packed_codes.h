// From packed codes and scales (packed.h) to vectors of 16 rows. AVX-512 only.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

#include "core/blocks/simd.h"
#include "cpu/kernels/packed_scales.h"
#include "cpu/packed.h"

namespace dca::cpu {
namespace {

[[gnu::always_inline]] inline U32 load_words(const std::byte* p) {
    U32 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

[[gnu::always_inline]] inline F load_packed_halves(const std::byte* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
[[gnu::always_inline]] inline F load_packed_bytes(const std::byte* p) { return load_i8(reinterpret_cast<const int8_t*>(p)); }

/// What is subtracted of the integers of packed_pair, times the activations.
template <class Format>
constexpr int packed_offset() {
    if constexpr (Format::table) return -Format::Levels::kLevels[0];
    return Format::offset;
}

/// The levels of a table, counted from the lowest: a zero byte gives zero, and so do the upper bytes of 16-bit codes.
template <class Levels>
struct LevelBytes {
    alignas(64) uint8_t bytes[64]{};
    constexpr LevelBytes() {
        for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(Levels::kLevels[i % 16] - Levels::kLevels[0]);
    }
};
template <class Levels>
constexpr LevelBytes<Levels> kLevelBytes{};

/// Pair p of 16 rows as 16-bit integers, from a block's planes.
template <class Format, int p>
[[gnu::always_inline]] inline __m512i packed_pair(const std::byte* planes) {
    constexpr int plane_bytes = sizeof(U32);
    if constexpr (Format::bits == 8) {
        typedef int16_t I16 __attribute__((vector_size(64)));
        const I16 words = (I16)load_words(planes + p / 2 * plane_bytes);
        return p % 2 == 0 ? (__m512i)((I16)(words << 8) >> 8) : (__m512i)(words >> 8);
    } else {
        const U32 low = load_words(planes + p / 4 * plane_bytes) >> (4 * (p % 4)) & 0x000f000f;
        if constexpr (Format::table) {
            return _mm512_shuffle_epi8(_mm512_load_si512(kLevelBytes<typename Format::Levels>.bytes), (__m512i)low);
        }
        if constexpr (Format::bits == 4) return (__m512i)low;
        constexpr int high_bits = Format::bits - 4;
        constexpr int pairs = 16 / (high_bits == 0 ? 1 : high_bits);  // of a word
        constexpr int mask = high_bits == 1 ? 0x00100010 : 0x00300030;
        const U32 high = load_words(planes + (4 + p / pairs) * plane_bytes);
        const __m512i turned = _mm512_maskz_ror_epi32(0xffff, (__m512i)high, high_bits * (p % pairs));
        return _mm512_ternarylogic_epi32(turned, _mm512_set1_epi32(mask), (__m512i)low, 0xea);  // (turned & mask) | low
    }
}

/// Scales of 16 rows, and what is added per unit of the activations' sum.
template <class Format>
struct PackedScales {
    F d, m{};
    const std::byte* record;

    explicit PackedScales(const std::byte* record) : d(load_scales<Format>(record + Format::scales_at)), record(record) {
        if constexpr (Format::minimum) m = load_packed_halves(record + Format::minima_at);
    }
    [[gnu::always_inline]] F scale(int sub) const {
        if constexpr (Format::super) return d * load_packed_bytes(record + Format::sub_scales_at + sub * kPackedRows);
        return d;
    }
    [[gnu::always_inline]] F minimum(int sub) const {
        if constexpr (Format::super) return m * -load_packed_bytes(record + Format::sub_minima_at + sub * kPackedRows);
        return m;
    }
};

}  // namespace
}  // namespace dca::cpu
