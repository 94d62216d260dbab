// Prefill's attention in 16-bit integers, for caches that are rounded anyway: a pair of products with
// its sum is one instruction (VNNI), twice the rate of f32. AVX-512 with VNNI only.
//
// Both products, keys · queries and values · weights, sum over the rows of two matrices, columns
// by columns. Each column becomes integers with one scale, so that its largest stays below 2^15 and
// its length, the root of the sum of squares, below 2^15.5. Then no sum of products, whole or in
// part, leaves 32 bits (Cauchy and Schwarz: |a · b| <= |a| |b|), and rounding moves a · b by
// 2^-17 |a| |b|, a third of what rounding one of them to f16 does.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include <immintrin.h>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/matmul.h"

namespace dca::cpu {
namespace {

constexpr float kLongestColumn = 46300.0f;  // below 2^15.5 by more than rounding adds
constexpr float kLargestOfColumn = 32767.0f;

/// The scales of 16 columns from their sums of squares and largest magnitudes; not a number where a column holds one.
[[gnu::always_inline]] inline F column_scales(F squares, F largest) {
    const F by_length = (F)_mm512_maskz_sqrt_ps(0xffff, (__m512)squares) * splat(1.0f / kLongestColumn);
    const F by_largest = largest * splat(1.0f / kLargestOfColumn);
    return by_largest > by_length ? by_largest : by_length;
}

[[gnu::always_inline]] inline F inverse_or_zero(F scale) { return scale > F{} ? splat(1.0f) / scale : F{}; }

/// Two rows of 16 columns as pairs: `even` in the low halves.
[[gnu::always_inline]] inline I pack_pair(F even, F odd) {
    const auto low = (I)_mm512_maskz_cvtps_epi32(0xffff, (__m512)even);
    const auto high = (I)_mm512_maskz_cvtps_epi32(0xffff, (__m512)odd);
    return (I)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)low, (__m512i)(high << 16));
}

[[gnu::always_inline]] inline I load_pairs(const int32_t* p) {
    I v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
[[gnu::always_inline]] inline void store_pairs(int32_t* p, I v) { __builtin_memcpy(p, &v, sizeof v); }

[[gnu::always_inline]] inline F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

/// 16 columns of `rows` rows (an even number), times `inverse`, as pairs of rows `stride` apart. load_row(row) gives the
/// columns of a row.
template <class LoadRow>
[[gnu::always_inline]] inline void pack_scaled_columns(LoadRow load_row, int rows, F inverse, int32_t* pairs, int stride) {
    for (int row = 0; row < rows; row += 2, pairs += stride)
        store_pairs(pairs, pack_pair(load_row(row) * inverse, load_row(row + 1) * inverse));
}

/// The same for a multiple of four rows with the columns' own scales, which are stored too.
template <class LoadRow>
[[gnu::always_inline]] inline void pack_columns(LoadRow load_row, int rows, int32_t* pairs, int stride, float* scales) {
    constexpr int chains = 4;
    F squares[chains] = {}, largest[chains] = {};
    for (int row = 0; row < rows; row += chains) {
#pragma GCC unroll 4
        for (int chain = 0; chain < chains; ++chain) {
            const F x = load_row(row + chain);
            squares[chain] += x * x;
            largest[chain] = maximum(largest[chain], magnitude(x));
        }
    }
    const F scale = column_scales((squares[0] + squares[1]) + (squares[2] + squares[3]),
                                  maximum(maximum(largest[0], largest[1]), maximum(largest[2], largest[3])));
    store(scales, scale);
    pack_scaled_columns(load_row, rows, inverse_or_zero(scale), pairs, stride);
}

/// c (Rows × 32) = a_scale · b_scale · (aᵀ b), or added to c: a (k pairs × columns, `a_stride` apart), b (k pairs × 32).
template <int Rows, bool add>
[[gnu::always_inline]] inline void multiply_pairs_tile(const int32_t* a, int a_stride, const float* a_scale, const int32_t* b,
                                                       const float* b_scale, int k, float* c) {
    constexpr int vectors = kPanelLanes / kVectorWidth;
    I sum[Rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[r][v] = I{};
    }
    for (int i = 0; i < k; ++i, a += a_stride, b += kPanelLanes) {
        I row[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) row[v] = load_pairs(b + v * kVectorWidth);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const __m512i pair = _mm512_set1_epi32(a[r]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[r][v] = (I)_mm512_dpwssd_epi32((__m512i)sum[r][v], (__m512i)row[v], pair);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            float* at = c + r * kPanelLanes + v * kVectorWidth;
            const F value = __builtin_convertvector(sum[r][v], F) * (splat(a_scale[r]) * load(b_scale + v * kVectorWidth));
            store(at, add ? load(at) + value : value);
        }
    }
}

/// The same for any multiple of four rows.
template <bool add>
void multiply_pairs(const int32_t* a, int a_stride, const float* a_scale, int rows, const int32_t* b, const float* b_scale, int k,
                    float* c) {
    const auto step = [&]<int Rows>() __attribute__((always_inline)) {
        for (; rows >= Rows; rows -= Rows, a += Rows, a_scale += Rows, c += Rows * kPanelLanes) {
            multiply_pairs_tile<Rows, add>(a, a_stride, a_scale, b, b_scale, k, c);
        }
    };
    step.template operator()<kTileRows>();
    step.template operator()<4>();
}

/// The kKeyTile keys from `first` on as pairs of head_dim (head_dim / 2 × kKeyTile).
template <class Cache>
void pack_keys(const AttendPanelArgs& args, uint32_t first, int32_t* pairs, float* scales) {
    KeyReader<Cache> keys(args.cache, args.head_dim);
    for (int key = 0; key < kKeyTile; key += kVectorWidth) {
        if (key % kPanelLanes == 0) keys.enter(first + key);
        const int lane = key % kPanelLanes;
        pack_columns([&, lane](int d) __attribute__((always_inline)) { return keys.at(d, lane); }, args.head_dim, pairs + key, kKeyTile,
                     scales + key);
    }
}

/// The kKeyTile values from `first` on as pairs of keys (kKeyTile / 2 × head_dim).
template <class Cache>
void pack_values(const AttendPanelArgs& args, uint32_t first, int32_t* pairs, float* scales) {
    const int head_dim = args.head_dim;
    const ValueReader<Cache, kKeyTile> values(args.cache, head_dim, first, kKeyTile);
    for (int d = 0; d < head_dim; d += kVectorWidth) {
        const auto load_row = [&, d](int key) __attribute__((always_inline)) { return values.at(key, d); };
        pack_columns(load_row, kKeyTile, pairs + d, head_dim, scales + d);
    }
}

/// attend_panel. A tile of which some query sees only a part goes through f32: its values share their scales, and what
/// a query gets must not depend, not even by rounding, on keys that come after it.
template <class Cache, bool Capped>
void attend_panel_int16(const AttendPanelArgs& args) {
    const int head_dim = args.head_dim;
    const size_t head_values = size_t{kPanelLanes} * head_dim;
    const size_t tile_pairs = size_t{kKeyTile} / 2 * head_dim;
    auto* keys = reinterpret_cast<int32_t*>(args.scratch);
    int32_t* values = keys + tile_pairs;
    int32_t* weights = values + tile_pairs;
    float* scores = args.scratch + 4 * tile_pairs;  // where attend_tile has them
    float* key_scales = scores + kKeyTile * kPanelLanes;
    float* value_scales = key_scales + kKeyTile;
    float* weight_scales = value_scales + head_dim;
    float* query_scales = weight_scales + kPanelLanes;
    auto* queries = reinterpret_cast<int32_t*>(query_scales + args.group * kPanelLanes);
    for (int g = 0; g < args.group; ++g) {
        if (passes_over(args, g)) continue;
        for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
            const float* q = args.q + g * head_values + lane;
            pack_columns([=](int d) __attribute__((always_inline)) { return load(q + d * kPanelLanes); }, head_dim,
                         queries + g * head_values / 2 + lane, kPanelLanes, query_scales + g * kPanelLanes + lane);
        }
    }
    for_key_tiles(args.span, [&](uint32_t first, int count) {
        if (count < kKeyTile || is_masked(first, count, args)) return attend_tile<Cache, Capped>(args, first, count);
        pack_keys<Cache>(args, first, keys, key_scales);
        pack_values<Cache>(args, first, values, value_scales);
        for (int g = 0; g < args.group; ++g) {
            if (passes_over(args, g)) continue;
            multiply_pairs<false>(keys, kKeyTile, key_scales, kKeyTile, queries + g * head_values / 2, query_scales + g * kPanelLanes,
                                  head_dim / 2, scores);
            float* out = args.out + g * head_values;
            for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
                const TileWeights tile = fold_softmax<Capped>(scores + lane, kKeyTile, args.maximum + g * kPanelLanes + lane,
                                                              args.sum + g * kPanelLanes + lane, out + lane, head_dim, args.cap);
                // No weight is above the largest, so the sum of squares is at most the sum times it.
                const F scale = column_scales(tile.sum * tile.largest, tile.largest);
                store(weight_scales + lane, scale);
                pack_scaled_columns([=](int key) __attribute__((always_inline)) { return load(scores + key * kPanelLanes + lane); },
                                    kKeyTile, inverse_or_zero(scale), weights + lane, kPanelLanes);
            }
            multiply_pairs<true>(values, head_dim, value_scales, head_dim, weights, weight_scales, kKeyTile / 2, out);
        }
    });
}

}  // namespace
}  // namespace dca::cpu
