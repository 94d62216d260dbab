// Encoders of the formats of 32 values where an error at each value counts what somebody says: Q4_0, Q4_1, Q5_0 and Q5_1.
// Those whose scales are always searched for take such weights in k.h.
//
// Internal linkage on purpose: each block_kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <algorithm>

#include "core/blocks/encode/encode.h"
#include "core/blocks/encode/k.h"
#include "core/blocks/encode/fit_block.h"
#include "core/blocks/formats.h"

namespace dca {
namespace {

/// The levels of one block, 0 and up.
inline LevelPair level_pair(const uint8_t* q) {
    float levels[kBlock];
    for (int i = 0; i < kBlock; ++i) levels[i] = q[i];
    return {Floats16::load(levels), Floats16::load(levels + 16)};
}

inline void pack(BlockQ4_0& block, LevelPair q) { pack_nibbles(q, block.qs); }
inline void pack(BlockQ4_1& block, LevelPair q) { pack_nibbles(q, block.qs); }
inline void pack(BlockQ5_0& block, LevelPair q) { pack_five_bits(q, block.qh, block.qs); }
inline void pack(BlockQ5_1& block, LevelPair q) { pack_five_bits(q, block.qh, block.qs); }

/// `finish(block, fit, j)` stores what else a block has. Levels are stored plus `offset`.
template <class Block, class Fit, class Finish>
void encode_fitted(const float* in, const float* importance, int64_t n_blocks, std::byte* out, float offset, Finish finish) {
    constexpr int kValues = Floats16::size * kBlock;
    auto* block = reinterpret_cast<Block*>(out);
    for (int64_t b = 0; b < n_blocks; b += Floats16::size, in += kValues, importance = after(importance, kValues)) {
        const int together = static_cast<int>(std::min<int64_t>(Floats16::size, n_blocks - b));
        const Fit fit(SubBlocks<kBlock>(in, together, importance));
        uint8_t q[kValues];
        store_levels(fit.q, offset, q);
        for (int j = 0; j < together; ++j, ++block) {
            block->d = float_to_half(fit.d[j]);
            finish(*block, fit, j);
            pack(*block, level_pair(q + j * kBlock));
        }
    }
}

template <class Block, int kHalf>
void weighted_symmetric(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    encode_fitted<Block, SymmetricBlockFit<kHalf>>(in, importance, n_blocks, out, static_cast<float>(kHalf), [](auto&, auto&, int) {});
}

template <class Block, int kMaxQ>
void weighted_affine(const float* in, const float* importance, int64_t n_blocks, std::byte* out) {
    encode_fitted<Block, AffineBlockFit<kMaxQ>>(in, importance, n_blocks, out, 0.0f,
                                                [](Block& block, auto& fit, int j) { block.m = float_to_half(fit.m[j]); });
}

/// The encoder of a format that heeds weights; null: it does not.
WeightedEncoder weighted_encoder(BlockType type) noexcept {
    switch (type) {
        case BlockType::Q4_0: return weighted_symmetric<BlockQ4_0, 8>;
        case BlockType::Q4_1: return weighted_affine<BlockQ4_1, 15>;
        case BlockType::Q5_0: return weighted_symmetric<BlockQ5_0, 16>;
        case BlockType::Q5_1: return weighted_affine<BlockQ5_1, 31>;
        case BlockType::IQ4_NL: return weighted_iq4_nl;
        case BlockType::IQ4_XS: return weighted_iq4_xs;
        case BlockType::Q2_K: return weighted_q2_k;
        case BlockType::Q3_K: return weighted_q3_k;
        case BlockType::Q4_K: return weighted_q4_k;
        case BlockType::Q5_K: return weighted_q5_k;
        case BlockType::Q6_K: return weighted_q6_k;
        default: return nullptr;
    }
}

}  // namespace
}  // namespace dca
