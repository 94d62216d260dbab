// Encoders of the 16-bit floats and of the 32-value block formats whose definition is a formula:
// Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 give the bytes that the gguf package's own quantisation gives.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/block_formats.h"
#include "core/block_layouts.h"

namespace dca {
namespace {

/// 1 / scale, or 0 where that is not a number to multiply by: a block of zeros, or of values so
/// small that the scale rounds to zero as a half anyway.
float inverse(float scale) {
    const float inverse = 1.0f / scale;
    return std::isfinite(inverse) ? inverse : 0.0f;
}

/// The value of largest magnitude with its sign, the first of equals.
float largest(const float* in) {
    float best = in[0];
    for (int i = 1; i < kBlock; ++i)
        if (std::fabs(in[i]) > std::fabs(best)) best = in[i];
    return best;
}

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
    const float id = inverse(d);
    for (int i = 0; i < kBlock; ++i)
        q[i] = uint8_t(std::min(kLevels - 1, int(in[i] * id + (float(kLevels / 2) + 0.5f))));
    return float_to_half(d);
}

/// Q4_1 and Q5_1: the levels span the block's minimum to its maximum.
template <int kLevels>
void quantize_min_max(const float* in, uint8_t (&q)[kBlock], uint16_t& half_d, uint16_t& half_m) {
    const auto [min, max] = std::minmax_element(in, in + kBlock);
    const float d = (*max - *min) / float(kLevels - 1);
    const float id = inverse(d);
    for (int i = 0; i < kBlock; ++i) q[i] = uint8_t(std::min(kLevels - 1, int((in[i] - *min) * id + 0.5f)));
    half_d = float_to_half(d);
    half_m = float_to_half(*min);
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
    const float d = std::fabs(largest(in)) / 127.0f;
    const float id = inverse(d);
    for (int i = 0; i < kBlock; ++i) block.qs[i] = int8_t(std::round(in[i] * id));
    block.d = float_to_half(d);
}

template <class Block, int kValues>
void encode_all(const float* in, int64_t n_blocks, std::byte* out) {
    auto* block = reinterpret_cast<Block*>(out);
    for (int64_t i = 0; i < n_blocks; ++i) encode(in + i * kValues, block[i]);
}

void encode_f32(const float* in, int64_t n_values, std::byte* out) { std::memcpy(out, in, size_t(n_values) * sizeof(float)); }

void encode_f16(const float* in, int64_t n_values, std::byte* out) {
    auto* half = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n_values; ++i) half[i] = float_to_half(in[i]);
}

void encode_bf16(const float* in, int64_t n_values, std::byte* out) {
    auto* bf16 = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = 0; i < n_values; ++i) bf16[i] = float_to_bf16(in[i]);
}

auto encoder(BlockType type) noexcept -> void (*)(const float*, int64_t, std::byte*) {
    switch (type) {
        case BlockType::F32: return encode_f32;
        case BlockType::F16: return encode_f16;
        case BlockType::BF16: return encode_bf16;
        case BlockType::Q4_0: return encode_all<BlockQ4_0, kBlock>;
        case BlockType::Q4_1: return encode_all<BlockQ4_1, kBlock>;
        case BlockType::Q5_0: return encode_all<BlockQ5_0, kBlock>;
        case BlockType::Q5_1: return encode_all<BlockQ5_1, kBlock>;
        case BlockType::Q8_0: return encode_all<BlockQ8_0, kBlock>;
        default: return nullptr;
    }
}

}  // namespace
}  // namespace dca
