// Products of packed weights and packed tokens (packed.h). AVX-512 with VNNI only.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <utility>

#include <immintrin.h>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_activations.h"
#include "cpu/kernels/packed_codes.h"
#include "cpu/packed.h"

namespace dca::cpu {
namespace {

/// sums[t] (16 rows) += one block of 32 columns times token t.
template <class Format, int tokens>
[[gnu::always_inline]] inline void multiply_block(const std::byte* planes, const PackedScales<Format>& scales, int block,
                                                  const PackedTokens<tokens>& x, F (&sums)[tokens]) {
    constexpr int subs = kBlock / Format::sub;  // scales of a block
    constexpr int sub_pairs = kPackedPairs / subs;
    // Few tokens leave the multiplier idle between dependent products: more sums in flight.
    constexpr int chains = tokens < 4 ? 2 : 1;
    const auto multiply_sub = [&]<int sub, int... p>(std::integer_sequence<int, sub>,
                                                     std::integer_sequence<int, p...>) __attribute__((always_inline)) {
        constexpr int part = subs == 1 ? 2 : sub;  // of the activations' sums
        __m512i acc[tokens][chains];
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) {
            acc[t][0] = _mm512_setzero_si512();
            if constexpr (packed_offset<Format>() != 0) acc[t][0] = (__m512i)((I{} + x.negated_sum[part][t]) * packed_offset<Format>());
            if constexpr (chains == 2) acc[t][1] = _mm512_setzero_si512();
        }
        const auto multiply_pair = [&]<int pair>(std::integer_sequence<int, pair>) __attribute__((always_inline)) {
            const __m512i w = packed_pair<Format, pair>(planes);
#pragma GCC unroll 8
            for (int t = 0; t < tokens; ++t) {
                acc[t][pair % chains] = _mm512_dpwssd_epi32(acc[t][pair % chains], w, _mm512_set1_epi32(x.pairs[pair][t]));
            }
        };
        (multiply_pair(std::integer_sequence<int, sub * sub_pairs + p>{}), ...);
        const F scale = scales.scale(block * subs + sub);
        F minimum{};
        if constexpr (Format::minimum) minimum = scales.minimum(block * subs + sub);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) {
            if constexpr (chains == 2) acc[t][0] = (__m512i)((I)acc[t][0] + (I)acc[t][1]);
            sums[t] += __builtin_convertvector((I)acc[t][0], F) * scale * splat(x.scale[t]);
            if constexpr (Format::minimum) sums[t] += minimum * splat(x.sum[part][t]);
        }
    };
    multiply_sub(std::integer_sequence<int, 0>{}, std::make_integer_sequence<int, sub_pairs>{});
    if constexpr (subs == 2) multiply_sub(std::integer_sequence<int, 1>{}, std::make_integer_sequence<int, sub_pairs>{});
}

/// sums[t] (16 rows) = a row group times token t.
template <class Format, int tokens>
[[gnu::always_inline]] inline void multiply_group(const std::byte* w, int cols, const std::byte* x, F (&sums)[tokens]) {
    const auto* blocks = reinterpret_cast<const PackedTokens<tokens>*>(x);
    for (int col = 0; col < cols; col += Format::blocks * kBlock, w += Format::bytes) {
        const PackedScales<Format> scales(w);
#pragma GCC unroll 1
        for (int block = 0; block < Format::blocks; ++block, ++blocks) {
            multiply_block(w + block * Format::planes * sizeof(U32), scales, block, *blocks, sums);
        }
    }
}

/// A few tokens that are plain vectors.
template <class Format, int tokens>
void multiply_vectors(const PackedProduct& product, size_t group_bytes) {
    for (int row = 0; row < product.rows; row += kPackedRows) {
        const int left = product.rows - row;
        const auto rows = static_cast<__mmask16>(left >= kPackedRows ? 0xffff : (1 << left) - 1);
        F sums[tokens] = {};
        multiply_group<Format, tokens>(product.w + row / kPackedRows * group_bytes, product.cols, product.x, sums);
        for (int t = 0; t < tokens && t < product.tokens; ++t) {
            float* y = product.y + t * product.y_panel_stride + row;
            F value = sums[t];
            if (product.bias != nullptr) value += (F)_mm512_maskz_loadu_ps(rows, product.bias + row);
            if (product.accumulate) value += (F)_mm512_maskz_loadu_ps(rows, y);
            _mm512_mask_storeu_ps(y, rows, (__m512)value);
        }
    }
}

/// The first, or second, two of every four of a and b, in turn: a b a b.
[[gnu::always_inline]] inline F interleave_low(F a, F b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
[[gnu::always_inline]] inline F interleave_high(F a, F b) {
    return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
/// The same two by two: a a b b.
[[gnu::always_inline]] inline F join_first(F a, F b) {
    return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
[[gnu::always_inline]] inline F join_second(F a, F b) {
    return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
/// The fours of the lower, or upper, halves of a and b in turn.
[[gnu::always_inline]] inline F lower_fours(F a, F b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
}
[[gnu::always_inline]] inline F upper_fours(F a, F b) {
    return __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
}

/// 16 rows × 8 tokens from a vector a token to eight floats a row.
[[gnu::always_inline]] inline void transpose_sums(const F (&sums)[8], float (&rows)[kPackedRows][8]) {
    F by_row[2][4];  // tokens 4h …: quarter q of vector i is row 4q + i
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
        const F a = sums[4 * h], b = sums[4 * h + 1], c = sums[4 * h + 2], d = sums[4 * h + 3];
        const F ab_low = interleave_low(a, b), ab_high = interleave_high(a, b);
        const F cd_low = interleave_low(c, d), cd_high = interleave_high(c, d);
        by_row[h][0] = join_first(ab_low, cd_low);
        by_row[h][1] = join_second(ab_low, cd_low);
        by_row[h][2] = join_first(ab_high, cd_high);
        by_row[h][3] = join_second(ab_high, cd_high);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const F first = lower_fours(by_row[0][i], by_row[1][i]);   // rows i and 4 + i
        const F second = upper_fours(by_row[0][i], by_row[1][i]);  // rows 8 + i and 12 + i
        __builtin_memcpy(rows[i], &first, 32);
        __builtin_memcpy(rows[4 + i], reinterpret_cast<const char*>(&first) + 32, 32);
        __builtin_memcpy(rows[8 + i], &second, 32);
        __builtin_memcpy(rows[12 + i], reinterpret_cast<const char*>(&second) + 32, 32);
    }
}

/// Tokens in panels, a bundle after another; the bundle stays in the first-level cache for all groups.
template <class Format>
void multiply_panels(const PackedProduct& product, size_t group_bytes) {
    const size_t bundle_bytes = packed_token_bytes(kPackedBundle, product.cols);
    for (int token = 0; token < product.tokens; token += kPackedBundle) {
        const std::byte* x = product.x + token / kPackedBundle * bundle_bytes;
        float* y = product.y + token / kPanelLanes * product.y_panel_stride + token % kPanelLanes;
        for (int row = 0; row < product.rows; row += kPackedRows) {
            F sums[kPackedBundle];
#pragma GCC unroll 8
            for (F& sum : sums) sum = F{};
            multiply_group<Format, kPackedBundle>(product.w + row / kPackedRows * group_bytes, product.cols, x, sums);
            alignas(64) float result[kPackedRows][kPackedBundle];
            transpose_sums(sums, result);
            typedef float F8 __attribute__((vector_size(32)));
            const int rows = product.rows - row < kPackedRows ? product.rows - row : kPackedRows;
            for (int r = 0; r < rows; ++r) {
                float* out = y + static_cast<size_t>(row + r) * kPanelLanes;
                F8 value, before{};
                __builtin_memcpy(&value, result[r], sizeof value);
                if (product.accumulate) __builtin_memcpy(&before, out, sizeof before);
                value += before + (product.bias != nullptr ? product.bias[row + r] : 0.0f);
                __builtin_memcpy(out, &value, sizeof value);
            }
        }
    }
}

void multiply_packed(const PackedProduct& product) {
    visit_packed(product.type, [&]<class Format>(Format) {
        const size_t group_bytes = static_cast<size_t>(product.cols / (Format::blocks * kBlock)) * Format::bytes;
        switch (packed_tokens(product.tokens, product.lanes)) {
            case 1: return multiply_vectors<Format, 1>(product, group_bytes);
            case 2: return multiply_vectors<Format, 2>(product, group_bytes);
            case 4: return multiply_vectors<Format, 4>(product, group_bytes);
            default:
                if (product.lanes == 1) return multiply_vectors<Format, kPackedBundle>(product, group_bytes);
                return multiply_panels<Format>(product, group_bytes);
        }
    });
}

constexpr PackedKernels packed_kernels{.pack_tokens = pack_tokens, .multiply = multiply_packed};

}  // namespace
}  // namespace dca::cpu
