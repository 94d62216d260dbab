// Products of packed weights (packed.h) with NEON's dot products of bytes. ARM only.
//
// An activation is 256 · high + low, two signed bytes: each is multiplied with the codes, and the sums are joined in
// 32-bit integers, exactly, as one 16-bit integer would have been. The eight columns of a plane of 4-bit codes come out
// of its words as 0 4 1 5 and 2 6 3 7, so that is the order of columns in everything here:
//
//   codes of 4 rows, from one register of words       activations of a token, one register an eight of columns
//   w & 0x0f…        row r: columns 0 4 1 5            high bytes 0 4 1 5 2 6 3 7 | low bytes 0 4 1 5 2 6 3 7
//   w >> 4 & 0x0f…   row r: columns 2 6 3 7
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include <arm_neon.h>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/packed_scales.h"
#include "cpu/packed.h"

namespace dca::cpu {
namespace {

constexpr int kEights = kBlock / 8;                        // of a block's columns
constexpr int kQuarters = kPackedRows / 4;                 // a vector holds four rows
constexpr int kColumnOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // within an eight
constexpr float kByteRange = 127 * 256 + 127;              // the largest integer of two signed bytes
constexpr float kLeastPacked = 1e-30f;                     // below, a block counts as nothing

/// One block of 32 columns of `tokens` tokens, in the memory of a PackedTokens.
template <int tokens>
struct ByteTokens {
    int8_t bytes[tokens][kEights][2][8];  // high, low
    float scale[tokens];
    int32_t negated_sum[3][tokens];  // as PackedTokens
    float sum[3][tokens];
};
static_assert(sizeof(ByteTokens<kPackedBundle>) == sizeof(PackedTokens<kPackedBundle>));

/// 32 values of one token, `step` floats apart.
template <int tokens>
inline void pack_block(const float* x, int step, ByteTokens<tokens>* out, int token) {
    float values[kBlock];
    int32_t largest = 0;
    for (int i = 0; i < kBlock; ++i) {
        values[i] = x[static_cast<size_t>(i) * step];
        const int32_t magnitude = __builtin_bit_cast(int32_t, values[i]) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;  // as integers, a NaN is the largest
    }
    const float maximum = __builtin_bit_cast(float, largest);
    const float scale = maximum / kByteRange;
    const float inverse = maximum > kLeastPacked ? kByteRange / maximum : 0.0f;
    int32_t integers[kBlock];
    // What is not finite becomes 0, and reaches the result through the scale.
    for (int i = 0; i < kBlock; i += 4) vst1q_s32(integers + i, vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + i), inverse)));
    int32_t sums[2] = {};
    for (int i = 0; i < kBlock; ++i) sums[i / 16] += integers[i];
    for (int eight = 0; eight < kEights; ++eight) {
        for (int i = 0; i < 8; ++i) {
            const int32_t integer = integers[8 * eight + kColumnOrder[i]];
            const auto low = static_cast<int8_t>(integer);
            out->bytes[token][eight][0][i] = static_cast<int8_t>((integer - low) / 256);
            out->bytes[token][eight][1][i] = low;
        }
    }
    out->scale[token] = scale;
    const int32_t parts[3] = {sums[0], sums[1], sums[0] + sums[1]};
    for (int part = 0; part < 3; ++part) {
        out->negated_sum[part][token] = -parts[part];
        out->sum[part][token] = scale * static_cast<float>(parts[part]);
    }
}

template <int side_by_side>
void pack_side_by_side(const float* x, int lanes, int tokens, int cols, std::byte* out) {
    auto* blocks = reinterpret_cast<ByteTokens<side_by_side>*>(out);
    for (int t = 0; t < tokens; ++t) {
        const float* token = lanes == 1 ? x + static_cast<size_t>(t) * cols : x + t;
        for (int b = 0; b < cols / kBlock; ++b) pack_block(token + static_cast<size_t>(b) * kBlock * lanes, lanes, blocks + b, t);
    }
    // Lanes without a token are multiplied with the others: their sums must be in range.
    for (int b = 0; b < cols / kBlock; ++b)
        for (auto& sums : blocks[b].negated_sum)
            for (int t = tokens; t < side_by_side; ++t) sums[t] = 0;
}

void pack_bytes(const float* x, int lanes, int tokens, int cols, std::byte* out) {
    switch (packed_tokens(tokens, lanes)) {
        case 1: return pack_side_by_side<1>(x, lanes, tokens, cols, out);
        case 2: return pack_side_by_side<2>(x, lanes, tokens, cols, out);
        case 4: return pack_side_by_side<4>(x, lanes, tokens, cols, out);
        default: return pack_side_by_side<kPackedBundle>(x, lanes, lanes == 1 ? tokens : kPackedBundle, cols, out);
    }
}

/// The codes of four rows for eight columns: columns 0 4 1 5 of each row, and 2 6 3 7.
struct Codes {
    int8x16_t first, second;
};

/// Bits that a high plane holds for the pairs at bit 4 (6 with `step` 1, 8 with 2) and half a word on, moved to bit 4 of each byte.
template <uint32_t mask, int step>
[[gnu::always_inline]] inline U32 spread(U32 turned) {
    constexpr int to_odd_bytes = 8 - 2 * step;
    return (turned & mask) | (turned << to_odd_bytes & mask << 8);
}

/// Eight `eight` of a block, four rows; `planes` is the first plane's word of the first of them.
template <class Format, int eight>
[[gnu::always_inline]] inline Codes codes_of(const std::byte* planes) {
    constexpr size_t plane_bytes = kPackedRows * sizeof(uint32_t);
    const auto plane = [=](int k) __attribute__((always_inline)) {
        U32 words;
        __builtin_memcpy(&words, planes + k * plane_bytes, sizeof words);
        return words;
    };
    if constexpr (Format::bits == 8) {  // bytes 0 2 1 3 and 4 6 5 7
        const auto low = (int8x16_t)plane(2 * eight), high = (int8x16_t)plane(2 * eight + 1);
        return {vtrn1q_s8(low, high), vtrn2q_s8(low, high)};
    } else {
        const U32 words = plane(eight);
        U32 first = words & 0x0f0f0f0f, second = words >> 4 & 0x0f0f0f0f;
        constexpr int high_bits = Format::bits - 4;
        if constexpr (high_bits != 0) {
            constexpr uint32_t mask = high_bits == 1 ? 0x00100010 : 0x00300030;
            constexpr int of_a_plane = 4 / high_bits;  // eights
            constexpr int turn = 4 * high_bits * (eight % of_a_plane);
            U32 turned = plane(4 + eight / of_a_plane);
            if constexpr (turn != 0) turned = turned >> turn | turned << (32 - turn);
            first |= spread<mask, high_bits>(turned);
            second |= spread<mask, high_bits>(turned >> high_bits);
        }
        if constexpr (Format::table) {
            const int8x16_t levels = vld1q_s8(Format::Levels::kLevels);
            return {vqtbl1q_s8(levels, (uint8x16_t)first), vqtbl1q_s8(levels, (uint8x16_t)second)};
        }
        return {(int8x16_t)first, (int8x16_t)second};
    }
}

/// Sums of four rows times one token, over eights of columns.
#if defined(__ARM_FEATURE_MATMUL_INT8)
struct Sums {
    int32x4_t rows01{}, rows23{};  // row · high, row · low, twice

    /// With rows two by two: eight columns of each.
    [[gnu::always_inline]] void add(int8x16_t first_rows, int8x16_t last_rows, int8x16_t x) {
        rows01 = vmmlaq_s32(rows01, first_rows, x);
        rows23 = vmmlaq_s32(rows23, last_rows, x);
    }
    [[gnu::always_inline]] I total() const { return (I)vuzp1q_s32(rows01, rows23) * 256 + (I)vuzp2q_s32(rows01, rows23); }
};
[[gnu::always_inline]] inline Codes arranged(Codes codes) {
    const auto first = vreinterpretq_s32_s8(codes.first), second = vreinterpretq_s32_s8(codes.second);
    return {vreinterpretq_s8_s32(vzip1q_s32(first, second)), vreinterpretq_s8_s32(vzip2q_s32(first, second))};
}
#else
struct Sums {
    int32x4_t high{}, low{};

    [[gnu::always_inline]] void add(int8x16_t first, int8x16_t second, int8x16_t x) {
        high = vdotq_laneq_s32(vdotq_laneq_s32(high, first, x, 0), second, x, 1);
        low = vdotq_laneq_s32(vdotq_laneq_s32(low, first, x, 2), second, x, 3);
    }
    [[gnu::always_inline]] I total() const { return (I)high * 256 + (I)low; }
};
[[gnu::always_inline]] inline Codes arranged(Codes codes) { return codes; }
#endif

/// d, m and the sub-scales of four rows of a record.
template <class Format>
struct QuarterScales {
    F d, m{};
    const std::byte* sub_scales;
    const std::byte* sub_minima;

    QuarterScales(const std::byte* record, int quarter)
        : sub_scales(record + Format::sub_scales_at + 4 * quarter), sub_minima(record + Format::sub_minima_at + 4 * quarter) {
        d = load_scales<Format>(record + Format::scales_at + 4 * sizeof(uint16_t) * quarter);
        if constexpr (Format::minimum) m = load_f16(reinterpret_cast<const uint16_t*>(record + Format::minima_at) + 4 * quarter);
    }
    [[gnu::always_inline]] F scale(int sub) const {
        if constexpr (Format::super) return d * load_i8(reinterpret_cast<const int8_t*>(sub_scales) + sub * kPackedRows);
        return d;
    }
    [[gnu::always_inline]] F minimum(int sub) const {
        if constexpr (Format::super) return m * -load_i8(reinterpret_cast<const int8_t*>(sub_minima) + sub * kPackedRows);
        return m;
    }
};

/// sums[t] += part `part` (2: the whole) of a block of 32 columns, four rows, times each token.
template <class Format, int tokens, int part, int first_eight, int end_eight>
[[gnu::always_inline]] inline void multiply_part(const std::byte* planes, F scale, F minimum, const ByteTokens<tokens>& x,
                                                 F (&sums)[tokens]) {
    Sums totals[tokens];
    const auto add = [&]<int eight>() __attribute__((always_inline)) {
        const Codes codes = arranged(codes_of<Format, eight>(planes));
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) totals[t].add(codes.first, codes.second, vld1q_s8(x.bytes[t][eight][0]));
    };
    add.template operator()<first_eight>();
    add.template operator()<first_eight + 1>();
    if constexpr (end_eight - first_eight == 4) {
        add.template operator()<first_eight + 2>();
        add.template operator()<first_eight + 3>();
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
        I total = totals[t].total();
        if constexpr (Format::offset != 0) total += x.negated_sum[part][t] * Format::offset;
        sums[t] += __builtin_convertvector(total, F) * scale * splat(x.scale[t]);
        if constexpr (Format::minimum) sums[t] += minimum * splat(x.sum[part][t]);
    }
}

/// sums[q][t]: rows 4q … 4q + 3 of a group times token t.
template <class Format, int tokens>
inline void multiply_group(const std::byte* w, int cols, const std::byte* x, F (&sums)[kQuarters][tokens]) {
    constexpr int subs = kBlock / Format::sub;
    const auto* tokens_at = reinterpret_cast<const ByteTokens<tokens>*>(x);
    for (int col = 0; col < cols; col += Format::blocks * kBlock, w += Format::bytes, tokens_at += Format::blocks) {
        for (int quarter = 0; quarter < kQuarters; ++quarter) {
            const QuarterScales<Format> scales(w, quarter);
            const std::byte* planes = w + 4 * sizeof(uint32_t) * quarter;
#pragma GCC unroll 1
            for (int block = 0; block < Format::blocks; ++block, planes += size_t{Format::planes} * kPackedRows * sizeof(uint32_t)) {
                const int sub = block * subs;
                if constexpr (subs == 1) {
                    multiply_part<Format, tokens, 2, 0, 4>(planes, scales.scale(sub), scales.minimum(sub), tokens_at[block], sums[quarter]);
                } else {
                    multiply_part<Format, tokens, 0, 0, 2>(planes, scales.scale(sub), scales.minimum(sub), tokens_at[block], sums[quarter]);
                    multiply_part<Format, tokens, 1, 2, 4>(planes, scales.scale(sub + 1), scales.minimum(sub + 1), tokens_at[block],
                                                           sums[quarter]);
                }
            }
        }
    }
}

/// y of one group and bundle: token t's row r lies at y[t * token_stride + r * row_stride].
template <class Format, int tokens>
inline void multiply_bundle(const PackedProduct& product, const std::byte* w, const std::byte* x, int row, int count, float* y,
                            size_t token_stride, size_t row_stride) {
    F sums[kQuarters][tokens] = {};
    multiply_group<Format, tokens>(w, product.cols, x, sums);
    const int rows = product.rows - row < kPackedRows ? product.rows - row : kPackedRows;
    for (int r = 0; r < rows; ++r) {
        const float bias = product.bias != nullptr ? product.bias[row + r] : 0.0f;
        for (int t = 0; t < count; ++t) {
            float& out = y[t * token_stride + r * row_stride];
            out = sums[r / 4][t][r % 4] + bias + (product.accumulate ? out : 0.0f);
        }
    }
}

/// A few tokens that are plain vectors.
template <class Format, int tokens>
void multiply_vectors(const PackedProduct& product, size_t group_bytes) {
    const int count = product.tokens < tokens ? product.tokens : tokens;
    for (int row = 0; row < product.rows; row += kPackedRows) {
        multiply_bundle<Format, tokens>(product, product.w + row / kPackedRows * group_bytes, product.x, row, count, product.y + row,
                                        product.y_panel_stride, 1);
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
            multiply_bundle<Format, kPackedBundle>(product, product.w + row / kPackedRows * group_bytes, x, row, kPackedBundle,
                                                   y + static_cast<size_t>(row) * kPanelLanes, 1, kPanelLanes);
        }
    }
}

void multiply_bytes(const PackedProduct& product) {
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

constexpr PackedKernels packed_kernels{.pack_tokens = pack_bytes, .multiply = multiply_bytes};

}  // namespace
}  // namespace dca::cpu
