// Weights repacked for products in integers: 16 rows side by side, so that a vector holds one
// column pair of 16 rows, a product needs no sum across a vector, and scales are vectors too.
//
// Codes are numbers, or four bits that say which level of a table a weight is. A file's points of grids (IQ2, IQ3) become
// such codes too: their magnitudes are three or eight numbers, with a sign. That is up to twice the file's bits, and a look-up
// of a register where a decoder would walk a grid.
//
// A matrix is cut into groups of 16 rows (the last one padded with zeros), a group into records:
// 32 columns, or the 256 of a super-block. A record of `blocks` × 32 columns holds
//   codes        blocks × planes × 16 × 32 bits; plane k's word r belongs to row r
//   scales       16 f16: d, or bf16 where d is a power of two (MXFP4)
//   minima       16 f16: m or dmin, where the format has one
//   sub-scales   256 / sub × 16 × 8 bits, super-blocks only
//   sub-minima   the same, super-blocks with minima only
// The 32 columns of a block are 16 pairs p = (2p, 2p + 1), and codes lie so that few instructions
// give the 16-bit pair of every row:
//   4 bits    planes 0 … 3: (word[p / 4] >> 4 (p % 4)) & 0x000f000f
//   + 1 bit   plane 4: rotated right by p, & 0x00100010
//   + 2 bits  planes 4 and 5: word[4 + p / 8] rotated right by 2 (p % 8), & 0x00300030
//   8 bits    planes 0 … 7: the even, then the odd bytes of word[p / 2]
//
// Activations become 16-bit integers with one scale per token and block of 32: an error of 2^-16
// of the block's largest value. They are multiplied with the codes in 32-bit integers, exactly.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/formats.h"
#include "core/blocks/layouts.h"

namespace dca::cpu {

constexpr int kPackedRows = 16;   // of a group
constexpr int kPackedPairs = 16;  // column pairs of a block
constexpr int kPackedBundle = 8;  // tokens that prefill multiplies at a time

/// Codes that are numbers.
struct Numbers {
    static constexpr int kDivisor = 1;
};

/// Codes of four bits that are places in a table of levels, from the lowest to the highest. A weight is
/// scale · level / kDivisor.
struct LevelsIQ4 {
    static constexpr int kDivisor = 1;
    static constexpr const int8_t (&kLevels)[16] = kIQ4NLValues;
};

/// The magnitudes given, rising, and each below zero.
template <int kDivisor_, int... magnitudes>
struct SignedLevels {
    static constexpr int kDivisor = kDivisor_;
    static constexpr int kMagnitudes = sizeof...(magnitudes);

    static constexpr uint8_t code(int magnitude, bool negative) {
        return static_cast<uint8_t>(negative ? kMagnitudes - 1 - magnitude : kMagnitudes + magnitude);
    }

private:
    struct Table {
        int8_t levels[16]{};
        constexpr Table() {
            const int8_t all[] = {magnitudes...};
            for (int i = 0; i < kMagnitudes; ++i) {
                levels[code(i, false)] = all[i];
                levels[code(i, true)] = static_cast<int8_t>(-all[i]);
            }
        }
    };
    static constexpr Table kTable{};

public:
    static constexpr const int8_t (&kLevels)[16] = kTable.levels;
};
using LevelsFP4 = SignedLevels<1, 0, 1, 2, 3, 4, 6, 8, 12>;
using LevelsIQ2 = SignedLevels<8, 8, 25, 43>;
using LevelsIQ3_XXS = SignedLevels<4, 4, 12, 20, 28, 36, 44, 52, 62>;
using LevelsIQ3_S = SignedLevels<1, 1, 3, 5, 7, 9, 11, 13, 15>;

/// One format's layout. A weight is scale · (code - offset), or scale · code + minimum, or a level's.
template <class Block_, int values_, int bits_, int offset_, int sub_, bool minimum_, class Levels_ = Numbers>
struct PackedFormat {
    using Block = Block_;  // in the file
    using Levels = Levels_;
    static constexpr int bits = bits_;      // of a code
    static constexpr int offset = offset_;  // 0 or a power of two
    static constexpr int sub = sub_;        // columns that share a scale: 16 or 32
    static constexpr bool minimum = minimum_;
    static constexpr bool table = requires { Levels::kLevels; };
    static constexpr bool power = requires(Block block) { block.e; };  // d is a bf16
    static constexpr bool super = values_ == kSuperBlock;
    static constexpr int blocks = values_ / kBlock;
    static constexpr int planes = bits;  // 32 columns × bits are `bits` words
    static constexpr int subs = super ? kSuperBlock / sub : 0;

    static constexpr size_t scales_at = sizeof(uint32_t) * blocks * planes * kPackedRows;
    static constexpr size_t minima_at = scales_at + sizeof(uint16_t) * kPackedRows;
    static constexpr size_t sub_scales_at = minima_at + (minimum ? sizeof(uint16_t) * kPackedRows : 0);
    static constexpr size_t sub_minima_at = sub_scales_at + subs * kPackedRows;
    static constexpr size_t bytes = sub_minima_at + (minimum ? subs * kPackedRows : 0);
};
template <class Block, int bits, int offset, bool minimum>
using PackedSimple = PackedFormat<Block, kBlock, bits, offset, kBlock, minimum>;
template <class Block, int bits, int offset, int sub, bool minimum>
using PackedSuper = PackedFormat<Block, kSuperBlock, bits, offset, sub, minimum>;
template <class Block, int values, int sub, class Levels>
using PackedLevels = PackedFormat<Block, values, 4, 0, sub, false, Levels>;

/// Calls visit(PackedFormat{}) for a format that has a packed layout; false for another.
template <class Visit>
bool visit_packed(BlockType type, Visit&& visit) {
    switch (type) {
        case BlockType::Q4_0: visit(PackedSimple<BlockQ4_0, 4, 8, false>{}); return true;
        case BlockType::Q4_1: visit(PackedSimple<BlockQ4_1, 4, 0, true>{}); return true;
        case BlockType::Q5_0: visit(PackedSimple<BlockQ5_0, 5, 16, false>{}); return true;
        case BlockType::Q5_1: visit(PackedSimple<BlockQ5_1, 5, 0, true>{}); return true;
        case BlockType::Q8_0: visit(PackedSimple<BlockQ8_0, 8, 0, false>{}); return true;
        case BlockType::Q4_K: visit(PackedSuper<BlockQ4_K, 4, 0, 32, true>{}); return true;
        case BlockType::Q5_K: visit(PackedSuper<BlockQ5_K, 5, 0, 32, true>{}); return true;
        case BlockType::Q6_K: visit(PackedSuper<BlockQ6_K, 6, 32, 16, false>{}); return true;
        case BlockType::IQ4_NL: visit(PackedLevels<BlockIQ4_NL, kBlock, 32, LevelsIQ4>{}); return true;
        case BlockType::IQ4_XS: visit(PackedLevels<BlockIQ4_XS, kSuperBlock, 32, LevelsIQ4>{}); return true;
        case BlockType::MXFP4: visit(PackedLevels<BlockMXFP4, kBlock, 32, LevelsFP4>{}); return true;
        case BlockType::IQ3_S: visit(PackedLevels<BlockIQ3_S, kSuperBlock, 32, LevelsIQ3_S>{}); return true;
        case BlockType::IQ3_XXS: visit(PackedLevels<BlockIQ3_XXS, kSuperBlock, 32, LevelsIQ3_XXS>{}); return true;
        case BlockType::IQ2_S: visit(PackedLevels<BlockIQ2_S, kSuperBlock, 16, LevelsIQ2>{}); return true;
        case BlockType::IQ2_XS: visit(PackedLevels<BlockIQ2_XS, kSuperBlock, 16, LevelsIQ2>{}); return true;
        case BlockType::IQ2_XXS: visit(PackedLevels<BlockIQ2_XXS, kSuperBlock, 32, LevelsIQ2>{}); return true;
        default: return false;
    }
}

/// Bytes of a group of 16 rows; 0 for a format without a packed layout.
size_t packed_group_bytes(BlockType type, int64_t cols) noexcept;

/// Packs `rows` (at most 16) rows of blocks into one group. `out` is zeroed where rows are fewer.
void pack_group(BlockType type, const std::byte* blocks, int64_t row_bytes, int rows, int64_t cols, std::byte* out) noexcept;

/// One block of 32 columns of `tokens` tokens: x = scale · integer.
template <int tokens>
struct PackedTokens {
    int32_t pairs[kPackedPairs][tokens];  // two 16-bit integers: column 2p low, column 2p + 1 high
    float scale[tokens];
    int32_t negated_sum[3][tokens];  // of the integers: first 16 columns, last 16, all
    float sum[3][tokens];            // of scale · integer likewise
};

/// Tokens that lie side by side in a PackedTokens: 1, 2, 4 or kPackedBundle where tokens are plain vectors
/// (at most kPackedBundle of them), kPackedBundle in panels.
[[gnu::always_inline]] constexpr inline int packed_tokens(int tokens, int lanes) {
    if (lanes == 1 && tokens <= 2) return tokens;
    return lanes == 1 && tokens <= 4 ? 4 : kPackedBundle;
}

[[gnu::always_inline]] constexpr inline size_t packed_token_bytes(int side_by_side, int64_t cols) {
    return static_cast<size_t>(cols / kBlock * side_by_side) * sizeof(PackedTokens<1>);
}

/// y = W x or y += W x for a run of row groups and all tokens of x.
struct PackedProduct {
    BlockType type;
    const std::byte* w;  // the first of the groups
    int rows;            // of y; only a matrix's last group has fewer than 16
    int cols;
    const std::byte* x;  // bundles of packed_tokens(tokens, lanes), packed_token_bytes each
    int tokens;
    int lanes;              // of y's panels: kPanelLanes or 1
    float* y;               // the first row in the first panel
    size_t y_panel_stride;  // floats
    const float* bias;      // of the first row, or null
    bool accumulate;
};

struct PackedKernels {
    /// One bundle: kPackedBundle lanes of a panel from `x` on, or (lanes = 1) `tokens` vectors one after another.
    void (*pack_tokens)(const float* x, int lanes, int tokens, int cols, std::byte* out);
    void (*multiply)(const PackedProduct& product);
};

}  // namespace dca::cpu
