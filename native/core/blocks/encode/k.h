// Encoders of the formats whose scales are searched for: the K-quants, IQ4_NL and IQ4_XS. The fits find the
// numbers, this file packs them (layouts.h).
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <algorithm>
#include <cstddef>

#include "core/blocks/layouts.h"
#include "core/blocks/encode/fit_affine.h"
#include "core/blocks/encode/fit_grid.h"
#include "core/blocks/encode/fit_symmetric.h"

namespace dca {
namespace {

/// What an error at each value counts, `values` further on; null where nobody said.
inline const float* after(const float* importance, int64_t values) { return importance == nullptr ? nullptr : importance + values; }

/// Two bits of each of 256 levels, from bit `shift` on: bits 2 * ((i % 128) / 32) of out[32 * (i / 128) + i % 32].
void pack_bit_pairs(const uint8_t* q, int shift, uint8_t* out) {
    for (int half = 0; half < 2; ++half, q += 128, out += 32)
        for (int i = 0; i < 32; ++i)
            out[i] = static_cast<uint8_t>((q[i] >> shift & 3) | (q[i + 32] >> shift & 3) << 2 | (q[i + 64] >> shift & 3) << 4 |
                                          (q[i + 96] >> shift & 3) << 6);
}

/// Bit `shift` of each of 256 levels: bit i / 32 of out[i % 32].
void pack_high_bits(const uint8_t* q, int shift, uint8_t (&out)[32]) {
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int j = 0; j < 8; ++j) bits |= (q[32 * j + i] >> shift & 1) << j;
        out[i] = static_cast<uint8_t>(bits);
    }
}

/// The low nibbles of 256 levels: those of i and i + n share a byte, for runs of 2 * n levels.
template <int n>
void pack_low_nibbles(const uint8_t* q, uint8_t (&out)[128]) {
    for (int run = 0; run < 128 / n; ++run)
        for (int i = 0; i < n; ++i) out[n * run + i] = static_cast<uint8_t>((q[2 * n * run + i] & 15) | (q[2 * n * run + n + i] & 15) << 4);
}

/// The 6-bit scales and minima of Q4_K and Q5_K, of the eight sub-blocks from `first` on.
void pack_scales_and_mins(Floats16 scale, Floats16 min, int first, uint8_t (&out)[12]) {
    for (int j = 0; j < 4; ++j) {
        const int low_scale = static_cast<int>(scale[first + j]), low_min = static_cast<int>(min[first + j]);
        const int high_scale = static_cast<int>(scale[first + j + 4]), high_min = static_cast<int>(min[first + j + 4]);
        out[j] = static_cast<uint8_t>(low_scale | (high_scale >> 4) << 6);
        out[j + 4] = static_cast<uint8_t>(low_min | (high_min >> 4) << 6);
        out[j + 8] = static_cast<uint8_t>((high_scale & 15) | (high_min & 15) << 4);
    }
}

void weighted_q2_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    using Fit = AffineFit<16, 3, 15>;
    auto* block = reinterpret_cast<BlockQ2_K*>(out);
    for (int64_t b = 0; b < n_blocks; ++b, ++block, in += kSuperBlock, importance = after(importance, kSuperBlock)) {
        const Fit fit(SubBlocks<16>(in, Floats16::size, importance));
        uint8_t q[kSuperBlock];
        store_levels(fit.q, 0.0f, q);
        pack_bit_pairs(q, 0, block->qs);
        for (int j = 0; j < 16; ++j)
            block->scales[j] = static_cast<uint8_t>(static_cast<int>(fit.scale[j]) | static_cast<int>(fit.min[j]) << 4);
        block->d = float_to_half(fit.d[0]);
        block->dmin = float_to_half(fit.dmin[0]);
    }
}

void weighted_q3_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    using Fit = SymmetricFit<4, 32>;
    // Errors of three bits are large, and an imatrix says better than a value's size what they cost.
    const float least = importance == nullptr ? 1.0f : 2.0f;
    auto* block = reinterpret_cast<BlockQ3_K*>(out);
    for (int64_t b = 0; b < n_blocks; ++b, ++block, in += kSuperBlock, importance = after(importance, kSuperBlock)) {
        const Fit fit(SubBlocks<16>(in, Floats16::size, importance, least));
        uint8_t q[kSuperBlock];
        store_levels(fit.q, 4.0f, q);
        pack_bit_pairs(q, 0, block->qs);
        pack_high_bits(q, 2, block->hmask);
        std::fill(block->scales, block->scales + 12, static_cast<uint8_t>(0));
        for (int j = 0; j < 16; ++j) {
            const int scale = static_cast<int>(fit.scale[j]) + 32;
            block->scales[j % 8] |= static_cast<uint8_t>((scale & 15) << (4 * (j / 8)));
            block->scales[8 + j % 4] |= static_cast<uint8_t>((scale >> 4) << (2 * (j / 4)));
        }
        block->d = float_to_half(fit.d[0]);
    }
}

/// Q4_K and Q5_K have 8 sub-blocks: two blocks fill sixteen. `pack_levels(block, q)` stores the rest.
template <class Block, int kMaxQ, class PackLevels>
void encode_q4_or_q5_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out, PackLevels pack_levels) {
    using Fit = AffineFit<32, kMaxQ, 63>;
    auto* block = reinterpret_cast<Block*>(out);
    for (int64_t b = 0; b < n_blocks; b += 2, in += 2 * kSuperBlock, importance = after(importance, 2 * kSuperBlock)) {
        const int together = static_cast<int>(std::min<int64_t>(2, n_blocks - b));
        const Fit fit(SubBlocks<32>(in, together * Fit::kGroup, importance));
        uint8_t q[2 * kSuperBlock];
        store_levels(fit.q, 0.0f, q);
        for (int i = 0; i < together; ++i, ++block) {
            const int first = i * Fit::kGroup;
            block->d = float_to_half(fit.d[first]);
            block->dmin = float_to_half(fit.dmin[first]);
            pack_scales_and_mins(fit.scale, fit.min, first, block->scales);
            pack_low_nibbles<32>(q + i * kSuperBlock, block->qs);
            pack_levels(*block, q + i * kSuperBlock);
        }
    }
}

void weighted_q4_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    encode_q4_or_q5_k<BlockQ4_K, 15>(in, importance, n_blocks, out, [](BlockQ4_K&, const uint8_t*) {});
}

void weighted_q5_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    encode_q4_or_q5_k<BlockQ5_K, 31>(in, importance, n_blocks, out,
                                     [](BlockQ5_K& block, const uint8_t* q) { pack_high_bits(q, 4, block.qh); });
}

void weighted_q6_k(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    using Fit = SymmetricFit<32, 128>;
    auto* block = reinterpret_cast<BlockQ6_K*>(out);
    for (int64_t b = 0; b < n_blocks; ++b, ++block, in += kSuperBlock, importance = after(importance, kSuperBlock)) {
        const Fit fit(SubBlocks<16>(in, Floats16::size, importance));
        uint8_t q[kSuperBlock];
        store_levels(fit.q, 32.0f, q);
        pack_low_nibbles<64>(q, block->ql);
        pack_bit_pairs(q, 4, block->qh);
        for (int j = 0; j < 16; ++j) block->scales[j] = static_cast<int8_t>(fit.scale[j]);
        block->d = float_to_half(fit.d[0]);
    }
}

void weighted_iq4_nl(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    auto* block = reinterpret_cast<BlockIQ4_NL*>(out);
    for (int64_t b = 0; b < n_blocks;
         b += Floats16::size, in += Floats16::size * kBlock, importance = after(importance, Floats16::size * kBlock)) {
        const int together = static_cast<int>(std::min<int64_t>(Floats16::size, n_blocks - b));
        const GridFit fit(SubBlocks<kBlock>(in, together, importance));
        uint8_t q[Floats16::size * kBlock];
        store_levels(fit.q, 0.0f, q);
        for (int j = 0; j < together; ++j, ++block) {
            block->d = float_to_half(fit.d[j]);
            const uint8_t* level = q + j * kBlock;
            for (int i = 0; i < 16; ++i) block->qs[i] = static_cast<uint8_t>(level[i] | level[i + 16] << 4);
        }
    }
}

/// As Q4_K, two blocks fill sixteen sub-blocks.
void weighted_iq4_xs(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    auto* block = reinterpret_cast<BlockIQ4_XS*>(out);
    for (int64_t b = 0; b < n_blocks; b += 2, in += 2 * kSuperBlock, importance = after(importance, 2 * kSuperBlock)) {
        const int together = static_cast<int>(std::min<int64_t>(2, n_blocks - b));
        const GridSuperFit fit(SubBlocks<kBlock>(in, together * GridSuperFit::kGroup, importance));
        uint8_t q[2 * kSuperBlock];
        store_levels(fit.q, 0.0f, q);
        for (int half = 0; half < together; ++half, ++block) {
            const int first = half * GridSuperFit::kGroup;
            block->d = float_to_half(fit.d[first]);
            block->scales_h = 0;
            for (int j = 0; j < GridSuperFit::kGroup; ++j) {
                const int scale = static_cast<int>(fit.scale[first + j]) + 32;
                uint8_t& low = block->scales_l[j / 2];
                low = static_cast<uint8_t>(j % 2 == 0 ? scale & 15 : low | (scale & 15) << 4);
                block->scales_h = static_cast<uint16_t>(block->scales_h | (scale >> 4) << (2 * j));
                const uint8_t* level = q + half * kSuperBlock + j * kBlock;
                for (int i = 0; i < 16; ++i) block->qs[16 * j + i] = static_cast<uint8_t>(level[i] | level[i + 16] << 4);
            }
        }
    }
}

void encode_q2_k(const float* in, int64_t n_blocks, std::byte* out) { weighted_q2_k(in, nullptr, n_blocks, out); }
void encode_q3_k(const float* in, int64_t n_blocks, std::byte* out) { weighted_q3_k(in, nullptr, n_blocks, out); }
void encode_q4_k(const float* in, int64_t n_blocks, std::byte* out) { weighted_q4_k(in, nullptr, n_blocks, out); }
void encode_q5_k(const float* in, int64_t n_blocks, std::byte* out) { weighted_q5_k(in, nullptr, n_blocks, out); }
void encode_q6_k(const float* in, int64_t n_blocks, std::byte* out) { weighted_q6_k(in, nullptr, n_blocks, out); }
void encode_iq4_nl(const float* in, int64_t n_blocks, std::byte* out) { weighted_iq4_nl(in, nullptr, n_blocks, out); }
void encode_iq4_xs(const float* in, int64_t n_blocks, std::byte* out) { weighted_iq4_xs(in, nullptr, n_blocks, out); }

}  // namespace
}  // namespace dca
