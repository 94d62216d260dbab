// One row of weights times one token's vector, each weight read once, straight from its block.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/formats.h"
#include "core/blocks/layouts.h"
#include "core/blocks/scales_and_mins.h"
#include "core/blocks/half.h"
#include "core/blocks/simd.h"

namespace dca::cpu {
namespace {

/// What the float formats have in common: reading `kVectorWidth` values, or one.
struct WeightsF32 {
    using Value = float;
    [[gnu::always_inline]] static F read(const Value* p) { return load(p); }
    [[gnu::always_inline]] static float one(Value value) { return value; }
};
struct WeightsF16 {
    using Value = uint16_t;
    [[gnu::always_inline]] static F read(const Value* p) { return load_f16(p); }
    [[gnu::always_inline]] static float one(Value value) { return half_to_float(value); }
};
struct WeightsBF16 {
    using Value = uint16_t;
    [[gnu::always_inline]] static F read(const Value* p) { return load_bf16(p); }
    [[gnu::always_inline]] static float one(Value value) { return bf16_to_float(value); }
};

/// `Rows` rows, `stride` bytes apart, · x.
template <class Weights, int Rows>
[[gnu::always_inline]] inline void dot_floats(const std::byte* w, int64_t stride, const float* x, int cols, float* y) {
    constexpr int steps = 4 / Rows;  // four sums in flight
    const auto row = [=](int r) __attribute__((always_inline)) { return reinterpret_cast<const typename Weights::Value*>(w + r * stride); };
    F sums[Rows][steps] = {};
    int i = 0;
    for (; i + steps * kVectorWidth <= cols; i += steps * kVectorWidth) {
#pragma GCC unroll 4
        for (int u = 0; u < steps; ++u) {
            const F at = load(x + i + u * kVectorWidth);
#pragma GCC unroll 2
            for (int r = 0; r < Rows; ++r) sums[r][u] += Weights::read(row(r) + i + u * kVectorWidth) * at;
        }
    }
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
        F sum = sums[r][0];
#pragma GCC unroll 4
        for (int u = 1; u < steps; ++u) sum += sums[r][u];
        int left = i;
        for (; left + kVectorWidth <= cols; left += kVectorWidth) sum += Weights::read(row(r) + left) * load(x + left);
        y[r] = sum_of(sum);
        for (; left < cols; ++left) y[r] += Weights::one(row(r)[left]) * x[left];
    }
}

/// y[r] = row r · x. A function of its own: inside dot_rows' switch the compiler makes it a tenth slower.
/// The first half of the rows is walked beside the second: two runs through memory, each straight, are fetched faster than
/// one; rows next to each other are not.
template <class Weights>
[[gnu::noinline]] void dot_float_rows(const std::byte* w, int64_t row_bytes, int rows, const float* x, int cols, float* y) {
    const int half = rows / 2;
    for (int r = 0; r < half; ++r) {
        float both[2];
        dot_floats<Weights, 2>(w + r * row_bytes, half * row_bytes, x, cols, both);
        y[r] = both[0];
        y[half + r] = both[1];
    }
    if (rows % 2 != 0) dot_floats<Weights, 1>(w + (rows - 1) * row_bytes, 0, x, cols, y + rows - 1);
}

/// Sum over the row's blocks of 32: scale · (codes · x) + offset · sum(x), two blocks in flight.
/// `codes(block, first)` gives `kVectorWidth` codes of a block as floats.
template <class Block, class Codes, class Finish>
[[gnu::always_inline]] inline float dot_blocks(const std::byte* w, const float* x, int cols, Codes codes, Finish finish) {
    const auto* blocks = reinterpret_cast<const Block*>(w);
    const int n = cols / 32;
    F totals[2] = {};
    const auto step = [&](int b, F& total) __attribute__((always_inline)) {
        const float* at = x + b * 32;
        F sum{};
#pragma GCC unroll 8
        for (int i = 0; i < 32; i += kVectorWidth) sum += codes(blocks[b], i) * load(at + i);
        total += finish(blocks[b], sum, at);
    };
    int b = 0;
    for (; b + 2 <= n; b += 2) {
        step(b, totals[0]);
        step(b + 1, totals[1]);
    }
    if (b < n) step(b, totals[0]);
    return sum_of(totals[0] + totals[1]);
}

[[gnu::always_inline]] inline float scale_of(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#elif defined(__aarch64__)
    return __builtin_bit_cast(__fp16, half);
#else
    return half_to_float(half);
#endif
}

/// `kVectorWidth` of a block's 32 four-bit codes: the first 16 are the low halves of the 16 bytes.
[[gnu::always_inline]] inline F load_nibbles(const uint8_t* bytes, int first) {
    const I wide = load_integers(bytes + first % 16);
    return __builtin_convertvector(first < 16 ? wide & 15 : wide >> 4, F);
}

[[gnu::always_inline]] inline F sum_of_32(const float* x) {
    F sum{};
#pragma GCC unroll 8
    for (int i = 0; i < 32; i += kVectorWidth) sum += load(x + i);
    return sum;
}

float dot_q8_0(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockQ8_0>(
        w, x, cols, [](const BlockQ8_0& block, int i) __attribute__((always_inline)) { return load_i8(block.qs + i); },
        [](const BlockQ8_0& block, F sum, const float*) __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum; });
}

float dot_q4_0(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockQ4_0>(
        w, x, cols, [](const BlockQ4_0& block, int i) __attribute__((always_inline)) { return load_nibbles(block.qs, i) - splat(8.0f); },
        [](const BlockQ4_0& block, F sum, const float*) __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum; });
}

float dot_q4_1(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockQ4_1>(
        w, x, cols, [](const BlockQ4_1& block, int i) __attribute__((always_inline)) { return load_nibbles(block.qs, i); },
        [](const BlockQ4_1& block, F sum, const float* at)
            __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum + splat(scale_of(block.m)) * sum_of_32(at); });
}

/// `kVectorWidth` nibbles with the fifth bits of Q5_0 and Q5_1 from value `first` on.
[[gnu::always_inline]] inline I with_fifth_bits(I nibbles, const uint8_t (&qh)[4], int first) {
    uint32_t bits;
    __builtin_memcpy(&bits, qh, sizeof bits);
#if defined(__AVX512F__)
    // The bits are a mask as they are: half the instructions of spreading them over the vector.
    const auto set = static_cast<__mmask16>(bits >> first);
    return (I)_mm512_mask_or_epi32((__m512i)nibbles, set, (__m512i)nibbles, _mm512_set1_epi32(16));
#else
    const U32 bit = {
#if defined(__AVX2__)
        0, 1, 2, 3, 4,
        5, 6, 7
#else
        0, 1, 2, 3
#endif
    };
    return nibbles | (I)(((U32{} + (bits >> first)) >> bit & 1u) << 4);
#endif
}

template <class Block>
[[gnu::always_inline]] inline F load_five_bits(const Block& block, int first) {
    const I wide = load_integers(block.qs + first % 16);
    return __builtin_convertvector(with_fifth_bits(first < 16 ? wide & 15 : wide >> 4, block.qh, first), F);
}

float dot_q5_0(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockQ5_0>(
        w, x, cols, [](const BlockQ5_0& block, int i) __attribute__((always_inline)) { return load_five_bits(block, i) - splat(16.0f); },
        [](const BlockQ5_0& block, F sum, const float*) __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum; });
}

float dot_q5_1(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockQ5_1>(
        w, x, cols, [](const BlockQ5_1& block, int i) __attribute__((always_inline)) { return load_five_bits(block, i); },
        [](const BlockQ5_1& block, F sum, const float* at)
            __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum + splat(scale_of(block.m)) * sum_of_32(at); });
}

/// Sum over super-blocks of 256 in sub-blocks of Sub values: scale(block, j) · (codes · x) per sub-block j.
/// `codes(block, j, i)` gives `kVectorWidth` codes from value i of sub-block j on; `finish(block, j, sum, x)` scales them.
template <class Block, int Sub, class Codes, class Finish>
[[gnu::always_inline]] inline float dot_super_blocks(const std::byte* w, const float* x, int cols, Codes codes, Finish finish) {
    const auto* blocks = reinterpret_cast<const Block*>(w);
    F totals[2] = {};
    for (int b = 0; b < cols / 256; ++b, x += 256) {
        const auto scales = finish(blocks[b]);
#pragma GCC unroll 2
        for (int j = 0; j < 256 / Sub; ++j) {
            F sum{};
#pragma GCC unroll 8
            for (int i = 0; i < Sub; i += kVectorWidth) sum += __builtin_convertvector(codes(blocks[b], j, i), F) * load(x + j * Sub + i);
            totals[j % 2] += scales(j, sum, x + j * Sub);
        }
    }
    return sum_of(totals[0] + totals[1]);
}

/// Q4_K and Q5_K: (d · scale) · codes - (dmin · min), sub-blocks of 32.
template <class Block>
[[gnu::always_inline]] inline auto affine_scales(const Block& block) {
    return [sub = ScalesAndMins(block.scales), d = scale_of(block.d), dmin = scale_of(block.dmin)](int j, F sum, const float* at)
               __attribute__((always_inline)) { return splat(d * sub.scale[j]) * sum - splat(dmin * sub.min[j]) * sum_of_32(at); };
}

float dot_q4_k(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockQ4_K, 32>(
        w, x, cols,
        [](const BlockQ4_K& block, int j, int i)
            __attribute__((always_inline)) { return load_integers(block.qs + 32 * (j / 2) + i) >> (4 * (j % 2)) & 15; },
        [](const BlockQ4_K& block) { return affine_scales(block); });
}

float dot_q5_k(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockQ5_K, 32>(
        w, x, cols,
        [](const BlockQ5_K& block, int j, int i) __attribute__((always_inline)) {
            return (load_integers(block.qs + 32 * (j / 2) + i) >> (4 * (j % 2)) & 15) | (load_integers(block.qh + i) >> j & 1) << 4;
        },
        [](const BlockQ5_K& block) { return affine_scales(block); });
}

float dot_q6_k(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockQ6_K, 16>(
        w, x, cols,
        [](const BlockQ6_K& block, int j, int i) __attribute__((always_inline)) {
            const int half = j / 8, column = j % 8;
            const I low = load_integers(block.ql + 64 * half + 16 * (column % 4) + i) >> (4 * (column / 4)) & 15;
            const I high = load_integers(block.qh + 32 * half + 16 * (column % 2) + i) >> (2 * (column / 2)) & 3;
            return (low | high << 4) - 32;
        },
        [](const BlockQ6_K& block) {
            return [&block, d = scale_of(block.d)](int j, F sum, const float*)
                       __attribute__((always_inline)) { return splat(d * block.scales[j]) * sum; };
        });
}

float dot_q3_k(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockQ3_K, 16>(
        w, x, cols,
        [](const BlockQ3_K& block, int j, int i) __attribute__((always_inline)) {
            const I low = load_integers(block.qs + 32 * (j / 8) + 16 * (j % 2) + i) >> (2 * (j / 2 % 4)) & 3;
            const I high = load_integers(block.hmask + 16 * (j % 2) + i) >> (j / 2) & 1;
            return (low | high << 2) - 4;
        },
        [](const BlockQ3_K& block) {
            return [&block, d = scale_of(block.d)](int j, F sum, const float*) __attribute__((always_inline)) {
                const int low = block.scales[j % 8] >> (4 * (j / 8)) & 15;
                const int high = block.scales[8 + j % 4] >> (2 * (j / 4)) & 3;
                return splat(d * static_cast<float>((low | high << 4) - 32)) * sum;
            };
        });
}

float dot_q2_k(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockQ2_K, 16>(
        w, x, cols,
        [](const BlockQ2_K& block, int j, int i)
            __attribute__((always_inline)) { return load_integers(block.qs + 32 * (j / 8) + 16 * (j % 2) + i) >> (2 * (j / 2 % 4)) & 3; },
        [](const BlockQ2_K& block) {
            return [&block, d = scale_of(block.d), dmin = scale_of(block.dmin)](int j, F sum, const float* at)
                       __attribute__((always_inline)) {
                           F sum_x{};
                           for (int i = 0; i < 16; i += kVectorWidth) sum_x += load(at + i);
                           return splat(d * static_cast<float>(block.scales[j] & 15)) * sum -
                                  splat(dmin * static_cast<float>(block.scales[j] >> 4)) * sum_x;
                       };
        });
}

/// What `kVectorWidth` of a block's 32 four-bit codes (as load_nibbles) stand for in a table.
[[gnu::always_inline]] inline I look_up_nibbles(const int8_t (&table)[16], const uint8_t* bytes, int first) {
#if defined(__AVX2__)
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __m128i codes = _mm_and_si128(first < 16 ? both : _mm_srli_epi16(both, 4), _mm_set1_epi8(15));
    const __m128i levels = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)), codes);
#if defined(__AVX512F__)
    return (I)_mm512_maskz_cvtepi8_epi32(0xffff, levels);
#else
    return (I)_mm256_cvtepi8_epi32(first % 16 == 0 ? levels : _mm_srli_si128(levels, 8));
#endif
#elif defined(__aarch64__)
    const uint8x16_t both = vld1q_u8(bytes);
    int8_t levels[16];
    vst1q_s8(levels, vqtbl1q_s8(vld1q_s8(table), first < 16 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4)));
    return load_integers(levels + first % 16);
#else
    I v;
    for (int i = 0; i < kVectorWidth; ++i) v[i] = table[bytes[first % 16 + i] >> (first < 16 ? 0 : 4) & 15];
    return v;
#endif
}

float dot_iq4_nl(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockIQ4_NL>(
        w, x, cols,
        [](const BlockIQ4_NL& block, int i)
            __attribute__((always_inline)) { return __builtin_convertvector(look_up_nibbles(kIQ4NLValues, block.qs, i), F); },
        [](const BlockIQ4_NL& block, F sum, const float*) __attribute__((always_inline)) { return splat(scale_of(block.d)) * sum; });
}

float dot_mxfp4(const std::byte* w, const float* x, int cols) {
    return dot_blocks<BlockMXFP4>(
        w, x, cols,
        [](const BlockMXFP4& block, int i)
            __attribute__((always_inline)) { return __builtin_convertvector(look_up_nibbles(kMXFP4Values, block.qs, i), F); },
        [](const BlockMXFP4& block, F sum, const float*) __attribute__((always_inline)) { return splat(mxfp4_scale(block.e)) * sum; });
}

float dot_iq4_xs(const std::byte* w, const float* x, int cols) {
    return dot_super_blocks<BlockIQ4_XS, 32>(
        w, x, cols,
        [](const BlockIQ4_XS& block, int j, int i)
            __attribute__((always_inline)) { return look_up_nibbles(kIQ4NLValues, block.qs + 16 * j, i); },
        [](const BlockIQ4_XS& block) {
            return [&block, d = scale_of(block.d)](int j, F sum, const float*)
                       __attribute__((always_inline)) { return splat(d * static_cast<float>(iq4_xs_scale(block, j))) * sum; };
        });
}

/// Any other format: dequantized a piece at a time into the first-level cache.
float dot_dequantized(BlockType type, const std::byte* w, const float* x, int cols) {
    constexpr int piece = 512;  // a multiple of every block size
    alignas(64) float weights[piece];
    const BlockInfo& info = block_info(type);
    float total = 0.0f;
    for (int i = 0; i < cols; i += piece) {
        const int n = cols - i < piece ? cols - i : piece;
        decode_blocks(type, w + int64_t{i} / info.block_size * info.block_bytes, n, weights);
        float sum;
        dot_floats<WeightsF32, 1>(reinterpret_cast<const std::byte*>(weights), 0, x + i, n, &sum);
        total += sum;
    }
    return total;
}

template <class Dot>
[[gnu::always_inline]] inline void for_rows(const std::byte* w, int64_t row_bytes, int rows, float* y, Dot dot) {
    for (int r = 0; r < rows; ++r) y[r] = dot(w + r * row_bytes);
}

void dot_rows(BlockType type, const std::byte* w, int64_t row_bytes, int rows, const float* x, int cols, float* y) {
    switch (type) {
        case BlockType::F32: return dot_float_rows<WeightsF32>(w, row_bytes, rows, x, cols, y);
        case BlockType::F16: return dot_float_rows<WeightsF16>(w, row_bytes, rows, x, cols, y);
        case BlockType::BF16: return dot_float_rows<WeightsBF16>(w, row_bytes, rows, x, cols, y);
        case BlockType::Q8_0: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q8_0(row, x, cols); });
        case BlockType::Q4_0: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q4_0(row, x, cols); });
        case BlockType::Q4_1: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q4_1(row, x, cols); });
        case BlockType::Q5_0: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q5_0(row, x, cols); });
        case BlockType::Q5_1: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q5_1(row, x, cols); });
        case BlockType::Q4_K: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q4_k(row, x, cols); });
        case BlockType::Q5_K: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q5_k(row, x, cols); });
        case BlockType::Q6_K: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q6_k(row, x, cols); });
        case BlockType::Q3_K: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q3_k(row, x, cols); });
        case BlockType::Q2_K: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_q2_k(row, x, cols); });
        case BlockType::IQ4_NL: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_iq4_nl(row, x, cols); });
        case BlockType::IQ4_XS: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_iq4_xs(row, x, cols); });
        case BlockType::MXFP4: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_mxfp4(row, x, cols); });
        default: return for_rows(w, row_bytes, rows, y, [=](const std::byte* row) { return dot_dequantized(type, row, x, cols); });
    }
}

#if defined(__AVX512F__)
constexpr int kDotTokens = 4;  // 2 rows × 4 tokens × 2 sums of 32 registers
#else
constexpr int kDotTokens = 2;
#endif

/// Two rows, `stride` bytes apart, · x of each token, each with dot_floats<Weights, 2>'s sums.
template <class Weights, int Tokens>
[[gnu::always_inline]] inline void dot_pair(const std::byte* w, int64_t stride, const DotTokensArgs& args, const float* x, float* first,
                                            float* second) {
    const auto row = [=](int r) __attribute__((always_inline)) { return reinterpret_cast<const typename Weights::Value*>(w + r * stride); };
    const int cols = args.cols;
    F sums[2][Tokens][2] = {};
    int i = 0;
    for (; i + 2 * kVectorWidth <= cols; i += 2 * kVectorWidth) {
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
            const int at = i + u * kVectorWidth;
            const F weights[2] = {Weights::read(row(0) + at), Weights::read(row(1) + at)};
#pragma GCC unroll 4
            for (int t = 0; t < Tokens; ++t) {
                const F value = load(x + t * args.x_stride + at);
                sums[0][t][u] += weights[0] * value;
                sums[1][t][u] += weights[1] * value;
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < Tokens; ++t) {
        const float* token = x + t * args.x_stride;
#pragma GCC unroll 2
        for (int r = 0; r < 2; ++r) {
            F sum = sums[r][t][0];
            sum += sums[r][t][1];
            int left = i;
            for (; left + kVectorWidth <= cols; left += kVectorWidth) sum += Weights::read(row(r) + left) * load(token + left);
            float total = sum_of(sum);
            for (; left < cols; ++left) total += Weights::one(row(r)[left]) * token[left];
            (r == 0 ? first : second)[t * args.y_stride] = total;
        }
    }
}

template <class Weights>
[[gnu::noinline]] void dot_float_tokens(const DotTokensArgs& args) {
    const int half = args.rows / 2;
    const int64_t stride = half * args.row_bytes;
    for (int r = 0; r < half; ++r) {
        const std::byte* w = args.w + r * args.row_bytes;
        const float* x = args.x;
        float* y = args.y + r;
        int left = args.tokens;
        const auto step = [&]<int Tokens>() __attribute__((always_inline)) {
            for (; left >= Tokens; left -= Tokens, x += Tokens * args.x_stride, y += Tokens * args.y_stride) {
                dot_pair<Weights, Tokens>(w, stride, args, x, y, y + half);
            }
        };
        step.template operator()<kDotTokens>();
        if constexpr (kDotTokens > 2) step.template operator()<2>();
        step.template operator()<1>();
    }
    if (args.rows % 2 == 0) return;
    const std::byte* last = args.w + (args.rows - 1) * args.row_bytes;
    for (int t = 0; t < args.tokens; ++t) {
        dot_floats<Weights, 1>(last, 0, args.x + t * args.x_stride, args.cols, args.y + t * args.y_stride + args.rows - 1);
    }
}

void dot_tokens(const DotTokensArgs& args) {
    switch (args.type) {
        case BlockType::F32: return dot_float_tokens<WeightsF32>(args);
        case BlockType::F16: return dot_float_tokens<WeightsF16>(args);
        case BlockType::BF16: return dot_float_tokens<WeightsBF16>(args);
        default: break;
    }
    for (int t = 0; t < args.tokens; ++t) {
        dot_rows(args.type, args.w, args.row_bytes, args.rows, args.x + t * args.x_stride, args.cols, args.y + t * args.y_stride);
    }
}

}  // namespace
}  // namespace dca::cpu
