// Activations as 16-bit integers (packed.h). AVX-512 only.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/packed.h"

namespace dca::cpu {
namespace {

/// What a block is multiplied with: 32767 / max, but 0 for a block of nothing (or of NaN, which
/// reaches the result through the scale).
constexpr float kLeastPacked = 1e-30f;
constexpr float kPackedRange = 32767.0f;

/// op over the 16 integers of a vector, by halves. (The header's own reductions make gcc 12 warn.)
template <class Op>
[[gnu::always_inline]] inline int32_t reduce(I v, Op op) {
    typedef int32_t I8 __attribute__((vector_size(32)));
    typedef int32_t I4 __attribute__((vector_size(16)));
    I8 half[2];
    __builtin_memcpy(half, &v, sizeof v);
    const I8 eight = op(half[0], half[1]);
    I4 quarter[2];
    __builtin_memcpy(quarter, &eight, sizeof eight);
    const I4 four = op(quarter[0], quarter[1]);
    const I4 two = op(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
    return op(two, __builtin_shufflevector(two, two, 1, 0, 3, 2))[0];
}

/// Integers as their low 16 bits hold them: what is not finite converts to -2^31, and becomes 0 so
/// that sums stay in range.
template <class Integers>
[[gnu::always_inline]] inline Integers low_half(Integers v) {
    return v << 16 >> 16;
}

/// One block of one token, `tokens` of which lie side by side.
template <int tokens>
[[gnu::always_inline]] inline void pack_token_block(const float* x, PackedTokens<tokens>* out, int token) {
    const F values[2] = {load(x), load(x + 16)};
    const I magnitudes[2] = {(I)values[0] & 0x7fffffff, (I)values[1] & 0x7fffffff};
    // Compared as integers, a NaN is the largest.
    const auto larger = [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; };
    const auto added = [](auto a, auto b) __attribute__((always_inline)) { return a + b; };
    const int32_t largest = reduce(larger(magnitudes[0], magnitudes[1]), larger);
    const float maximum = __builtin_bit_cast(float, largest);
    const float scale = maximum / kPackedRange;
    const F inverse = splat(maximum > kLeastPacked ? kPackedRange / maximum : 0.0f);
    int32_t sums[2];
    alignas(32) int32_t pairs[kPackedPairs];
    for (int half = 0; half < 2; ++half) {
        const I q = low_half((I)_mm512_maskz_cvtps_epi32(0xffff, (__m512)(values[half] * inverse)));
        sums[half] = reduce(q, added);
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs + 8 * half), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)q));
    }
    for (int p = 0; p < kPackedPairs; ++p) out->pairs[p][token] = pairs[p];
    out->scale[token] = scale;
    out->negated_sum[0][token] = -sums[0];
    out->negated_sum[1][token] = -sums[1];
    out->negated_sum[2][token] = -sums[0] - sums[1];
    out->sum[0][token] = scale * static_cast<float>(sums[0]);
    out->sum[1][token] = scale * static_cast<float>(sums[1]);
    out->sum[2][token] = scale * static_cast<float>(sums[0] + sums[1]);
}

/// Lanes without a token are multiplied with the others: their sums must be in range.
template <int side_by_side>
void clear_sums(PackedTokens<side_by_side>* blocks, int tokens, int cols) {
    if (tokens == side_by_side) return;
    for (int b = 0; b < cols / kBlock; ++b)
        for (auto& sums : blocks[b].negated_sum)
            for (int t = tokens; t < side_by_side; ++t) sums[t] = 0;
}

template <int side_by_side>
void pack_vectors(const float* x, int tokens, int cols, std::byte* out) {
    auto* blocks = reinterpret_cast<PackedTokens<side_by_side>*>(out);
    for (int t = 0; t < tokens; ++t) {
        for (int b = 0; b < cols / kBlock; ++b) pack_token_block(x + static_cast<size_t>(t) * cols + b * kBlock, blocks + b, t);
    }
    clear_sums(blocks, tokens, cols);
}

/// Eight lanes of a panel: a vector holds one feature of the eight.
void pack_lanes(const float* x, int cols, std::byte* out) {
    typedef float F8 __attribute__((vector_size(32)));
    typedef int32_t I8 __attribute__((vector_size(32)));
    static_assert(kPackedBundle == 8);
    auto* blocks = reinterpret_cast<PackedTokens<kPackedBundle>*>(out);
    const auto load8 = [](const float* p) __attribute__((always_inline)) {
        F8 v;
        __builtin_memcpy(&v, p, sizeof v);
        return v;
    };
    const auto store8 = [](void* p, auto v) __attribute__((always_inline)) { __builtin_memcpy(p, &v, sizeof v); };
    for (int b = 0; b < cols / kBlock; ++b, ++blocks, x += size_t{kBlock} * kPanelLanes) {
        I8 largest{};
#pragma GCC unroll 8
        for (int f = 0; f < kBlock; ++f) {
            const I8 magnitude = (I8)load8(x + f * kPanelLanes) & 0x7fffffff;
            largest = magnitude > largest ? magnitude : largest;
        }
        const F8 maximum = (F8)largest;
        const F8 scale = maximum / kPackedRange;
        const F8 inverse = maximum > kLeastPacked ? kPackedRange / maximum : F8{};
        I8 sums[2] = {};
#pragma GCC unroll 8
        for (int p = 0; p < kPackedPairs; ++p) {
            const I8 even = low_half((I8)_mm256_cvtps_epi32((__m256)(load8(x + 2 * p * kPanelLanes) * inverse)));
            const I8 odd = low_half((I8)_mm256_cvtps_epi32((__m256)(load8(x + (2 * p + 1) * kPanelLanes) * inverse)));
            sums[p / 8] += even + odd;
            store8(blocks->pairs[p], (even & 0xffff) | odd << 16);
        }
        const I8 all = sums[0] + sums[1];
        store8(blocks->scale, scale);
        store8(blocks->negated_sum[0], -sums[0]);
        store8(blocks->negated_sum[1], -sums[1]);
        store8(blocks->negated_sum[2], -all);
        store8(blocks->sum[0], scale * __builtin_convertvector(sums[0], F8));
        store8(blocks->sum[1], scale * __builtin_convertvector(sums[1], F8));
        store8(blocks->sum[2], scale * __builtin_convertvector(all, F8));
    }
}

void pack_tokens(const float* x, int lanes, int tokens, int cols, std::byte* out) {
    switch (packed_tokens(tokens, lanes)) {
        case 1: return pack_vectors<1>(x, tokens, cols, out);
        case 2: return pack_vectors<2>(x, tokens, cols, out);
        case 4: return pack_vectors<4>(x, tokens, cols, out);
        default: return lanes == 1 ? pack_vectors<kPackedBundle>(x, tokens, cols, out) : pack_lanes(x, cols, out);
    }
}

}  // namespace
}  // namespace dca::cpu
