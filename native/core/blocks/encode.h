// Encoders of the 16-bit floats and of the 32-value block formats whose definition is a formula:
// Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 give the bytes that the gguf package's own quantisation gives.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/block_formats.h"
#include "core/block_layouts.h"
#include "core/blocks/halves.h"

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

/// Values i and i + 16 share a byte: low and high nibble.
void pack_nibbles(const uint8_t (&q)[kBlock], uint8_t (&qs)[16]) {
    for (int i = 0; i < 16; ++i) qs[i] = uint8_t((q[i] & 15) | (q[i + 16] & 15) << 4);
}

/// Bit i of qh is bit 4 of q[i].
void pack_fifth_bits(const uint8_t (&q)[kBlock], uint8_t (&qh)[4]) {
    for (int byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (int bit = 0; bit < 8; ++bit) bits |= (q[8 * byte + bit] >> 4) << bit;
        qh[byte] = uint8_t(bits);
    }
}

/// Q4_0 and Q5_0: the value of largest magnitude becomes -half of the levels exactly.
template <int kLevels>
uint16_t quantize_symmetric(const float* in, uint8_t (&q)[kBlock]) {
    const float d = largest(in) / float(-kLevels / 2);
    const float id = inverse_or_zero(d);
    for (int i = 0; i < kBlock; ++i)
        q[i] = uint8_t(std::min(kLevels - 1, int(in[i] * id + (float(kLevels / 2) + 0.5f))));
    return float_to_half(d);
}

/// Q4_1 and Q5_1: the levels span the block's minimum to its maximum.
template <int kLevels>
void quantize_min_max(const float* in, uint8_t (&q)[kBlock], uint16_t& half_d, uint16_t& half_m) {
    int32_t low = to_ordered(in[0]), high = low;
    for (int i = 0; i < kBlock; ++i) {
        low = std::min(low, to_ordered(in[i]));
        high = std::max(high, to_ordered(in[i]));
    }
    const float min = from_ordered(low), max = from_ordered(high);
    const float d = (max - min) / float(kLevels - 1);
    const float id = inverse_or_zero(d);
    for (int i = 0; i < kBlock; ++i) q[i] = uint8_t(std::min(kLevels - 1, int((in[i] - min) * id + 0.5f)));
    half_d = float_to_half(d);
    half_m = float_to_half(min);
}

void encode(const float* in, BlockQ4_0& block) {
    uint8_t q[kBlock];
    block.d = quantize_symmetric<16>(in, q);
    pack_nibbles(q, block.qs);
}

void encode(const float* in, BlockQ4_1& block) {
    uint8_t q[kBlock];
    quantize_min_max<16>(in, q, block.d, block.m);
    pack_nibbles(q, block.qs);
}

void encode(const float* in, BlockQ5_0& block) {
    uint8_t q[kBlock];
    block.d = quantize_symmetric<32>(in, q);
    pack_nibbles(q, block.qs);
    pack_fifth_bits(q, block.qh);
}

void encode(const float* in, BlockQ5_1& block) {
    uint8_t q[kBlock];
    quantize_min_max<32>(in, q, block.d, block.m);
    pack_nibbles(q, block.qs);
    pack_fifth_bits(q, block.qh);
}

void encode(const float* in, BlockQ8_0& block) {
    const float d = std::bit_cast<float>(largest_magnitude(in)) / 127.0f;
    const float id = inverse_or_zero(d);
    for (int i = 0; i < kBlock; ++i) {  // to nearest, halves away from zero
        const float exact = in[i] * id;
        const int whole = int(exact);
        const float rest = exact - float(whole);
        block.qs[i] = int8_t(whole + (rest >= 0.5f) - (rest <= -0.5f));
    }
    block.d = float_to_half(d);
}

template <class Block>
void encode_all(const float* in, int64_t n_blocks, std::byte* out) {
    auto* block = reinterpret_cast<Block*>(out);
    for (int64_t i = 0; i < n_blocks; ++i) encode(in + i * kBlock, block[i]);
}

void encode_f32(const float* in, int64_t n_values, std::byte* out) { std::memcpy(out, in, size_t(n_values) * sizeof(float)); }

void encode_f16(const float* in, int64_t n_values, std::byte* out) {
    floats_to_halves(in, n_values, reinterpret_cast<uint16_t*>(out));
}

void encode_bf16(const float* in, int64_t n_values, std::byte* out) {
    auto* bf16 = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n_values; ++i) bf16[i] = float_to_bf16(in[i]);
}

}  // namespace
}  // namespace dca
