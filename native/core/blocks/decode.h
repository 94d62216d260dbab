// Decoders of the block formats, plain loops that the compiler vectorises. The formulas are those
// of layouts.h; the build keeps the compiler from fusing their products and sums.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <bit>
#include <cstring>

#include "core/blocks/decode_iq.h"
#include "core/blocks/formats.h"
#include "core/blocks/layouts.h"
#include "core/blocks/halves.h"
#include "core/blocks/scales_and_mins.h"

namespace dca {
namespace {

void decode(const BlockQ4_0& block, float* out) {
    const float d = half_to_float(block.d);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>((block.qs[i] & 15) - 8);
        out[i + 16] = d * static_cast<float>((block.qs[i] >> 4) - 8);
    }
}

void decode(const BlockQ4_1& block, float* out) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(block.qs[i] & 15) + m;
        out[i + 16] = d * static_cast<float>(block.qs[i] >> 4) + m;
    }
}

/// The fifth bits of Q5_0 and Q5_1, one byte (0 or 16) a value.
struct FifthBits {
    uint8_t of[kBlock];

    explicit FifthBits(const uint8_t (&qh)[4]) {
        for (int byte = 0; byte < 4; ++byte)
            for (int bit = 0; bit < 8; ++bit) of[8 * byte + bit] = static_cast<uint8_t>((qh[byte] >> bit & 1) << 4);
    }
};

void decode(const BlockQ5_0& block, float* out) {
    const float d = half_to_float(block.d);
    const FifthBits high(block.qh);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(((block.qs[i] & 15) | high.of[i]) - 16);
        out[i + 16] = d * static_cast<float>(((block.qs[i] >> 4) | high.of[i + 16]) - 16);
    }
}

void decode(const BlockQ5_1& block, float* out) {
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    const FifthBits high(block.qh);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>((block.qs[i] & 15) | high.of[i]) + m;
        out[i + 16] = d * static_cast<float>((block.qs[i] >> 4) | high.of[i + 16]) + m;
    }
}

void decode(const BlockQ8_0& block, float* out) {
    const float d = half_to_float(block.d);
    for (int i = 0; i < kBlock; ++i) out[i] = static_cast<float>(block.qs[i]) * d;
}

void decode(const BlockIQ4_NL& block, float* out) {
    const float d = half_to_float(block.d);
    for (int i = 0; i < 16; ++i) {
        out[i] = d * static_cast<float>(kIQ4NLValues[block.qs[i] & 15]);
        out[i + 16] = d * static_cast<float>(kIQ4NLValues[block.qs[i] >> 4]);
    }
}

void decode(const BlockQ2_K& block, float* out) {
    const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
    for (int j = 0; j < kSuperBlock / 16; ++j) {
        const float scale = d * static_cast<float>(block.scales[j] & 15);
        const float min = dmin * static_cast<float>(block.scales[j] >> 4);
        const uint8_t* qs = block.qs + 32 * (j / 8) + 16 * (j % 2);
        const int shift = 2 * (j / 2 % 4);
        for (int i = 0; i < 16; ++i) out[16 * j + i] = scale * static_cast<float>(qs[i] >> shift & 3) - min;
    }
}

void decode(const BlockQ3_K& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 16; ++j) {
        const int low = block.scales[j % 8] >> (4 * (j / 8)) & 15;
        const int high = block.scales[8 + j % 4] >> (2 * (j / 4)) & 3;
        const float scale = d * static_cast<float>((low | high << 4) - 32);
        const uint8_t* qs = block.qs + 32 * (j / 8) + 16 * (j % 2);
        const uint8_t* hmask = block.hmask + 16 * (j % 2);
        const int shift = 2 * (j / 2 % 4), bit = j / 2;
        for (int i = 0; i < 16; ++i) out[16 * j + i] = scale * static_cast<float>(((qs[i] >> shift & 3) | (hmask[i] >> bit & 1) << 2) - 4);
    }
}

void decode(const BlockQ4_K& block, float* out) {
    const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
    const ScalesAndMins sub(block.scales);
    for (int j = 0; j < kSuperBlock / 32; ++j) {
        const float scale = d * static_cast<float>(sub.scale[j]), min = dmin * static_cast<float>(sub.min[j]);
        const uint8_t* qs = block.qs + 32 * (j / 2);
        const int shift = 4 * (j % 2);
        for (int i = 0; i < 32; ++i) out[32 * j + i] = scale * static_cast<float>(qs[i] >> shift & 15) - min;
    }
}

void decode(const BlockQ5_K& block, float* out) {
    const float d = half_to_float(block.d), dmin = half_to_float(block.dmin);
    const ScalesAndMins sub(block.scales);
    for (int j = 0; j < kSuperBlock / 32; ++j) {
        const float scale = d * static_cast<float>(sub.scale[j]), min = dmin * static_cast<float>(sub.min[j]);
        const uint8_t* qs = block.qs + 32 * (j / 2);
        const int shift = 4 * (j % 2);
        for (int i = 0; i < 32; ++i)
            out[32 * j + i] = scale * static_cast<float>((qs[i] >> shift & 15) | (block.qh[i] >> j & 1) << 4) - min;
    }
}

void decode(const BlockQ6_K& block, float* out) {
    const float d = half_to_float(block.d);
    for (int j = 0; j < kSuperBlock / 16; ++j) {
        const float scale = d * static_cast<float>(block.scales[j]);
        const int half = j / 8, column = j % 8;
        const uint8_t* ql = block.ql + 64 * half + 16 * (column % 4);
        const uint8_t* qh = block.qh + 32 * half + 16 * (column % 2);
        const int low_shift = 4 * (column / 4), high_shift = 2 * (column / 2);
        for (int i = 0; i < 16; ++i)
            out[16 * j + i] = scale * static_cast<float>(((ql[i] >> low_shift & 15) | (qh[i] >> high_shift & 3) << 4) - 32);
    }
}

template <class Block, int kValues>
void decode_all(const std::byte* blocks, int64_t n_blocks, float* out) {
    const auto* block = reinterpret_cast<const Block*>(blocks);
    for (int64_t i = 0; i < n_blocks; ++i) decode(block[i], out + i * kValues);
}

void decode_f32(const std::byte* blocks, int64_t n_values, float* out) {
    std::memcpy(out, blocks, static_cast<size_t>(n_values) * sizeof(float));
}

void decode_f16(const std::byte* blocks, int64_t n_values, float* out) {
    halves_to_floats(reinterpret_cast<const uint16_t*>(blocks), n_values, out);
}

void decode_bf16(const std::byte* blocks, int64_t n_values, float* out) {
    const auto* bf16 = reinterpret_cast<const uint16_t*>(blocks);
    for (int64_t i = 0; i < n_values; ++i) out[i] = bf16_to_float(bf16[i]);
}

}  // namespace
}  // namespace dca
