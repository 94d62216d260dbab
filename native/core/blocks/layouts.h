// How each block format of GGUF lies in memory: plain structs for the CPU and the CUDA kernels.
//
// `d` and `m` are binary16 bit patterns (half.h). x[i] is the block's i-th value, as decoding
// defines it; every product and sum of a formula is rounded to f32 on its own.
// All structs are aligned to 2 bytes and have no padding.
#pragma once

#include <cstdint>

namespace dca {

/// Values in a block of the simple formats.
inline constexpr int kBlock = 32;
/// Values in a super-block of the K formats.
inline constexpr int kSuperBlock = 256;

/// x[i] = d * (q[i] - 8). q[i] for i < 16 is qs[i]'s low nibble, for i >= 16 qs[i - 16]'s high one.
struct BlockQ4_0 {
    uint16_t d;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

/// x[i] = d * q[i] + m, nibbles as in Q4_0.
struct BlockQ4_1 {
    uint16_t d;
    uint16_t m;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

/// x[i] = d * (q[i] - 16). q[i] = Q4_0's nibble + 16 * bit i of qh (little-endian).
struct BlockQ5_0 {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

/// x[i] = d * q[i] + m, q as in Q5_0.
struct BlockQ5_1 {
    uint16_t d;
    uint16_t m;
    uint8_t qh[4];
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

/// x[i] = qs[i] * d.
struct BlockQ8_0 {
    uint16_t d;
    int8_t qs[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

/// x[i] = d * kIQ4NLValues[q[i]], nibbles as in Q4_0.
struct BlockIQ4_NL {
    uint16_t d;
    uint8_t qs[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

inline constexpr int8_t kIQ4NLValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// Sub-blocks of 16: x[i] = (d * sc) * q[i] - (dmin * mn), sc and mn the low and high nibble of
/// scales[i / 16]. q[i] = bits 2 * ((i % 128) / 32) and up of qs[32 * (i / 128) + i % 32].
struct BlockQ2_K {
    uint8_t scales[16];
    uint8_t qs[64];
    uint16_t d;
    uint16_t dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

/// Sub-blocks of 16: x[i] = (d * (sc - 32)) * (q[i] - (bit i / 32 of hmask[i % 32] ? 0 : 4)), q as in Q2_K.
/// sc of sub-block j, 6 bits: the low four are nibble j / 8 of scales[j % 8], the high two are
/// bits 2 * (j / 4) and up of scales[8 + j % 4].
struct BlockQ3_K {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint16_t d;
};
static_assert(sizeof(BlockQ3_K) == 110);

/// Sub-blocks of 32: x[i] = (d * sc) * q[i] - (dmin * mn).
/// q[i] = nibble (i / 32) % 2 of qs[32 * (i / 64) + i % 32].
/// sc and mn of sub-block j, 6 bits each: for j < 4 the low six bits of scales[j] and scales[j + 4];
/// for j >= 4 their low four bits are scales[j + 4]'s low and high nibble, their high two bits the
/// top two bits of scales[j - 4] and scales[j].
struct BlockQ4_K {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

/// As Q4_K, with 16 * bit i / 32 of qh[i % 32] added to q[i].
struct BlockQ5_K {
    uint16_t d;
    uint16_t dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

/// Sub-blocks of 16: x[i] = (d * scales[i / 16]) * (q[i] - 32). With n = i / 128 and r = i % 128,
/// q[i]'s low four bits are nibble r / 64 of ql[64 * n + r % 64], its high two
/// bits 2 * (r / 32) and up of qh[32 * n + r % 32].
struct BlockQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

}  // namespace dca
