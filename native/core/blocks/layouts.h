// How each block format of GGUF lies in memory: plain structs for the CPU and the CUDA kernels.
//
// `d` and `m` are binary16 bit patterns (half.h). x[i] is the block's i-th value, as decoding
// defines it; every product and sum of a formula is rounded to f32 on its own.
// All structs are aligned to 2 bytes (MXFP4: 1) and have no padding.
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

/// x[i] = 2^(e - 128) * kMXFP4Values[q[i]], nibbles as in Q4_0: the values of OCP's MX floats of 4 bits (E2M1), doubled.
struct BlockMXFP4 {
    uint8_t e;
    uint8_t qs[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

inline constexpr int8_t kMXFP4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Sub-blocks of 32: x[i] = (d * (sc - 32)) * kIQ4NLValues[q[i]]. q of sub-block j: nibbles as in Q4_0 of qs[16 * j ...].
/// sc of sub-block j, 6 bits: the low four are nibble j % 2 of scales_l[j / 2], the high two bits 2 * j and up of scales_h.
struct BlockIQ4_XS {
    uint16_t d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

// In the formats below values come in points of a grid (grids.h), eight (IQ2) or four (IQ3) magnitudes at a time, with a
// scale sc of four bits: x[i] = scale * magnitude, negative where its sign bit is 1. Signs given by seven bits for eight
// values have as the last bit what makes the number of ones even.

/// Sub-blocks of 32: scale = (d * (0.5 + sc)) * 0.25. A sub-block's 64 bits: four indices of 8 bits, four signs of 7, sc.
struct BlockIQ2_XXS {
    uint16_t d;
    uint16_t qs[32];
};
static_assert(sizeof(BlockIQ2_XXS) == 66);

/// Sub-blocks of 16: scale as in IQ2_XXS, sc nibble j % 2 of scales[j / 2]. qs[k]: an index of 9 bits, signs of 7.
struct BlockIQ2_XS {
    uint16_t d;
    uint16_t qs[32];
    uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74);

/// As IQ2_XS; the index of point k is qs[k] and, above it, bits 2 * (k % 4) and up of qh[k / 4]; signs[k] has all eight bits.
struct BlockIQ2_S {
    uint16_t d;
    uint8_t qs[32];
    uint8_t signs[32];
    uint8_t qh[8];
    uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82);

/// Sub-blocks of 32: scale = (d * (0.5 + sc)) * 0.5. qs: indices; four bytes a sub-block: four signs of 7 bits, sc.
struct BlockIQ3_XXS {
    uint16_t d;
    uint8_t qs[64];
    uint8_t scales_and_signs[32];
};
static_assert(sizeof(BlockIQ3_XXS) == 98);

/// Sub-blocks of 32: scale = d * (1 + 2 * sc), sc nibble j % 2 of scales[j / 2]. The index of point k is qs[k] with bit k % 8 of
/// qh[k / 8] above it; the sign of value i is bit i % 8 of signs[i / 8].
struct BlockIQ3_S {
    uint16_t d;
    uint8_t qs[64];
    uint8_t qh[8];
    uint8_t signs[32];
    uint8_t scales[4];
};
static_assert(sizeof(BlockIQ3_S) == 110);

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
