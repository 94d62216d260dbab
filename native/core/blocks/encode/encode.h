// Encoders of the 16-bit floats and of the 32-value block formats whose definition is a formula:
// Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 give the bytes that the gguf package's own quantisation gives.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/blocks/decode_iq.h"
#include "core/blocks/formats.h"
#include "core/blocks/layouts.h"
#include "core/blocks/halves.h"
#include "core/blocks/floats16.h"

namespace dca {
namespace {

/// 1 / scale, or 0 where that is not a number to multiply by: a block of zeros, or of values so
/// small that the scale rounds to zero as a half anyway.
float inverse_or_zero(float scale) {
    const float inverse = 1.0f / scale;
    return std::isfinite(inverse) ? inverse : 0.0f;
}

// The searches for extremes compare bit patterns as integers: such loops the compiler vectorises.

/// Bit pattern of the largest magnitude.
int32_t largest_magnitude(const float* in) {
    int32_t largest = 0;
    for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::bit_cast<int32_t>(in[i]) & 0x7fffffff);
    return largest;
}

/// The value of largest magnitude with its sign, the first of equals.
float largest(const float* in) {
    const float magnitude = std::bit_cast<float>(largest_magnitude(in));
    int positive = 0, negative = 0;
    for (int i = 0; i < kBlock; ++i) {
        positive |= in[i] == magnitude;
        negative |= in[i] == -magnitude;
    }
    if (positive && negative) return *std::find_if(in, in + kBlock, [=](float x) { return std::fabs(x) == magnitude; });
    return negative ? -magnitude : magnitude;
}

/// Integers in the order of the floats, and back.
int32_t to_ordered(float value) {
    const int32_t bits = std::bit_cast<int32_t>(value);
    return bits ^ (bits >> 31 & 0x7fffffff);
}
float from_ordered(int32_t ordered) { return std::bit_cast<float>(ordered ^ (ordered >> 31 & 0x7fffffff)); }

/// A block's levels: of values 0 ... 15 and of values 16 ... 31.
struct LevelPair {
    Floats16 first, second;
};

/// Q4_0 and Q5_0: the value of largest magnitude becomes minus half of the levels exactly.
template <int kLevels>
LevelPair quantize_symmetric(const float* in, uint16_t& half_d) {
    const float d = largest(in) / static_cast<float>(-kLevels / 2);
    const float id = inverse_or_zero(d);
    half_d = float_to_half(d);
    const auto level = [=](Floats16 x) {
        return truncate(minimum(x * id + (static_cast<float>(kLevels / 2) + 0.5f), static_cast<float>(kLevels - 1)));
    };
    return {level(Floats16::load(in)), level(Floats16::load(in + 16))};
}

/// Q4_1 and Q5_1: the levels span the block's minimum to its maximum.
template <int kLevels>
LevelPair quantize_min_max(const float* in, uint16_t& half_d, uint16_t& half_m) {
    int32_t low = to_ordered(in[0]), high = low;
    for (int i = 0; i < kBlock; ++i) {
        low = std::min(low, to_ordered(in[i]));
        high = std::max(high, to_ordered(in[i]));
    }
    const float m = from_ordered(low);
    const float d = (from_ordered(high) - m) / static_cast<float>(kLevels - 1);
    const float id = inverse_or_zero(d);
    half_d = float_to_half(d);
    half_m = float_to_half(m);
    const auto level = [=](Floats16 x) { return truncate(minimum((x - m) * id + 0.5f, static_cast<float>(kLevels - 1))); };
    return {level(Floats16::load(in)), level(Floats16::load(in + 16))};
}

/// Low nibbles of levels up to 15.
void pack_nibbles(LevelPair q, uint8_t (&qs)[16]) { store_bytes(q.first + 16.0f * q.second, qs); }

/// Levels up to 31: the fifth bits to qh, bit i for value i, the others as nibbles.
void pack_five_bits(LevelPair q, uint8_t (&qh)[4], uint8_t (&qs)[16]) {
    const Floats16 first_high = select(q.first > 15.0f, 1.0f, 0.0f), second_high = select(q.second > 15.0f, 1.0f, 0.0f);
    pack_nibbles({q.first - 16.0f * first_high, q.second - 16.0f * second_high}, qs);
    uint8_t high[kBlock];
    store_bytes(first_high, high);
    store_bytes(second_high, high + 16);
    for (int byte = 0; byte < 4; ++byte) {
        uint64_t eight;
        std::memcpy(&eight, high + 8 * byte, sizeof(eight));
        qh[byte] = static_cast<uint8_t>(eight * 0x0102040810204080 >> 56);  // moves bit 8 * k to bit 56 + k
    }
}

void encode(const float* in, BlockQ4_0& block) { pack_nibbles(quantize_symmetric<16>(in, block.d), block.qs); }

void encode(const float* in, BlockQ4_1& block) { pack_nibbles(quantize_min_max<16>(in, block.d, block.m), block.qs); }

void encode(const float* in, BlockQ5_0& block) { pack_five_bits(quantize_symmetric<32>(in, block.d), block.qh, block.qs); }

void encode(const float* in, BlockQ5_1& block) { pack_five_bits(quantize_min_max<32>(in, block.d, block.m), block.qh, block.qs); }

void encode(const float* in, BlockQ8_0& block) {
    const float d = std::bit_cast<float>(largest_magnitude(in)) / 127.0f;
    const float id = inverse_or_zero(d);
    block.d = float_to_half(d);
    for (int i = 0; i < kBlock; i += Floats16::size) {  // to nearest, halves away from zero
        const Floats16 exact = Floats16::load(in + i) * id;
        const Floats16 whole = truncate(exact), rest = exact - whole;
        const Floats16 up = select(rest < 0.5f, 0.0f, 1.0f), down = select(rest > -0.5f, 0.0f, 1.0f);
        store_bytes(whole + up - down, reinterpret_cast<uint8_t*>(block.qs + i));
    }
}

/// The largest value becomes one of 4 to 6 times the scale, of which each value takes the nearest level, the smaller of equals.
void encode(const float* in, BlockMXFP4& block) {
    const float most = std::bit_cast<float>(largest_magnitude(in));
    block.e = most > 0.0f ? static_cast<uint8_t>(std::max(0.0f, std::floor(std::log2(most)) + 125.0f)) : 0;
    const float d = mxfp4_scale(block.e);
    uint8_t q[kBlock];
    for (int i = 0; i < kBlock; ++i) {
        const float x = std::fabs(in[i]);
        float least = x;
        int level = 0;
        for (int k = 1; k < 8; ++k) {
            const float error = std::fabs(d * static_cast<float>(kMXFP4Values[k]) - x);
            level = error < least ? k : level;
            least = error < least ? error : least;
        }
        q[i] = static_cast<uint8_t>(level != 0 && in[i] < 0.0f ? level + 8 : level);
    }
    for (int i = 0; i < 16; ++i) block.qs[i] = static_cast<uint8_t>(q[i] | q[i + 16] << 4);
}

/// Index of the first value that is NaN or larger than max_abs in magnitude; n if there is none.
int64_t first_beyond(const float* in, int64_t n, float max_abs) {
    constexpr int64_t kStep = 256;
    const int32_t max_bits = std::bit_cast<int32_t>(max_abs);  // NaNs and infinity lie above as well
    const auto beyond = [=](float x) { return (std::bit_cast<int32_t>(x) & 0x7fffffff) > max_bits; };
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep) {
        int found = 0;
        for (int64_t j = 0; j < kStep; ++j) found |= beyond(in[i + j]);
        if (found) break;
    }
    while (i < n && !beyond(in[i])) ++i;
    return i;
}

template <class Block>
void encode_all(const float* in, int64_t n_blocks, std::byte* out) {
    auto* block = reinterpret_cast<Block*>(out);
    for (int64_t i = 0; i < n_blocks; ++i) encode(in + i * kBlock, block[i]);
}

void encode_f32(const float* in, int64_t n_values, std::byte* out) { std::memcpy(out, in, static_cast<size_t>(n_values) * sizeof(float)); }

void encode_f16(const float* in, int64_t n_values, std::byte* out) { floats_to_halves(in, n_values, reinterpret_cast<uint16_t*>(out)); }

void encode_bf16(const float* in, int64_t n_values, std::byte* out) {
    auto* bf16 = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n_values; ++i) bf16[i] = float_to_bf16(in[i]);
}

}  // namespace
}  // namespace dca
