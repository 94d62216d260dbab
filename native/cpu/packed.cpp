#include "cpu/packed.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "core/blocks/grid_points.h"
#include "core/blocks/half.h"
#include "core/blocks/scales_and_mins.h"

namespace dca::cpu {

namespace {

// The codes of a format's block `j` of 32 columns, one byte each, as layouts.h numbers them.

void nibbles(const uint8_t (&qs)[16], uint8_t* codes) {
    for (int i = 0; i < 16; ++i) {
        codes[i] = qs[i] & 15;
        codes[16 + i] = qs[i] >> 4;
    }
}

void add_fifth_bits(const uint8_t (&qh)[4], uint8_t* codes) {
    for (int byte = 0; byte < 4; ++byte) {
        // Bit i of the byte moves to byte i, then to bit 4 there.
        const uint64_t spread = qh[byte] * 0x0101010101010101u & 0x8040201008040201u;
        const uint64_t fifth = (spread + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
        uint64_t eight;
        std::memcpy(&eight, codes + 8 * byte, sizeof eight);
        eight |= fifth;
        std::memcpy(codes + 8 * byte, &eight, sizeof eight);
    }
}

void read_codes(const BlockQ4_0& block, int, uint8_t* codes) { nibbles(block.qs, codes); }
void read_codes(const BlockQ4_1& block, int, uint8_t* codes) { nibbles(block.qs, codes); }
void read_codes(const BlockQ5_0& block, int, uint8_t* codes) {
    nibbles(block.qs, codes);
    add_fifth_bits(block.qh, codes);
}
void read_codes(const BlockQ5_1& block, int, uint8_t* codes) {
    nibbles(block.qs, codes);
    add_fifth_bits(block.qh, codes);
}
void read_codes(const BlockQ8_0& block, int, uint8_t* codes) { std::memcpy(codes, block.qs, kBlock); }
void read_codes(const BlockQ4_K& block, int j, uint8_t* codes) {
    for (int i = 0; i < kBlock; ++i) codes[i] = block.qs[32 * (j / 2) + i] >> (4 * (j % 2)) & 15;
}
void read_codes(const BlockQ5_K& block, int j, uint8_t* codes) {
    for (int i = 0; i < kBlock; ++i) {
        codes[i] = static_cast<uint8_t>((block.qs[32 * (j / 2) + i] >> (4 * (j % 2)) & 15) | (block.qh[i] >> j & 1) << 4);
    }
}
void read_codes(const BlockQ6_K& block, int j, uint8_t* codes) {
    const uint8_t* low = block.ql + 64 * (j / 4) + 32 * (j % 2);
    const uint8_t* high = block.qh + 32 * (j / 4);
    for (int i = 0; i < kBlock; ++i) {
        codes[i] = static_cast<uint8_t>((low[i] >> (4 * (j % 4 / 2)) & 15) | (high[i] >> (2 * (j % 4)) & 3) << 4);
    }
}

void read_codes(const BlockIQ4_NL& block, int, uint8_t* codes) { nibbles(block.qs, codes); }
void read_codes(const BlockIQ4_XS& block, int j, uint8_t* codes) {
    for (int i = 0; i < 16; ++i) {
        codes[i] = block.qs[16 * j + i] & 15;
        codes[16 + i] = block.qs[16 * j + i] >> 4;
    }
}
void read_codes(const BlockMXFP4& block, int, uint8_t* codes) {
    nibbles(block.qs, codes);
    for (int i = 0; i < kBlock; ++i) codes[i] = LevelsFP4::code(codes[i] & 7, codes[i] > 7);
}

// Which of a grid's magnitudes it is, rising.
template <class Block>
int digit(int magnitude) {
    constexpr bool is_iq3 = decltype(point_of(Block{}, 0))::kValues == 4;
    if constexpr (std::is_same_v<Block, BlockIQ3_S>) return magnitude / 2;  // 1, 3, 5 ...
    return magnitude / (is_iq3 ? 8 : 17);                                   // 4, 12, 20 ... 62, or 8, 25, 43
}

/// Points of a grid.
template <class Levels, class Block>
void read_points(const Block& block, int j, uint8_t* codes) {
    constexpr int values = decltype(point_of(block, 0))::kValues;
    for (int k = 0; k < kBlock / values; ++k, codes += values) {
        const auto point = point_of(block, j * kBlock / values + k);
        for (int i = 0; i < values; ++i) {
            codes[i] = Levels::code(digit<Block>(point.magnitudes[static_cast<size_t>(i)]), (point.signs >> i & 1u) != 0);
        }
    }
}
void read_codes(const BlockIQ2_XXS& block, int j, uint8_t* codes) { read_points<LevelsIQ2>(block, j, codes); }
void read_codes(const BlockIQ2_XS& block, int j, uint8_t* codes) { read_points<LevelsIQ2>(block, j, codes); }
void read_codes(const BlockIQ2_S& block, int j, uint8_t* codes) { read_points<LevelsIQ2>(block, j, codes); }
void read_codes(const BlockIQ3_XXS& block, int j, uint8_t* codes) { read_points<LevelsIQ3_XXS>(block, j, codes); }
void read_codes(const BlockIQ3_S& block, int j, uint8_t* codes) { read_points<LevelsIQ3_S>(block, j, codes); }

// The signed scale of a super-block's sub-block j.
int sub_scale(const BlockQ6_K& block, int j) { return block.scales[j]; }
int sub_scale(const BlockIQ4_XS& block, int j) { return iq4_xs_scale(block, j); }
template <class Block>
int sub_scale(const Block& block, int j) {
    return odd_scale(block, j);
}

/// The low `bits` of bytes 0, 2, 4, 6 of `bytes`, one after another.
template <int bits>
uint32_t even_fields(uint64_t bytes) {
    bytes &= ((1u << bits) - 1) * uint64_t{0x0001000100010001};
    constexpr int step = 16 - bits;
    return static_cast<uint32_t>(bytes | bytes >> step | bytes >> 2 * step | bytes >> 3 * step) & ((1u << 4 * bits) - 1);
}

/// The low `bits` of eight codes: those of even columns in the low half, at `shift` from each half's end.
template <int bits>
uint32_t four_pairs(uint64_t codes, int shift) {
    return even_fields<bits>(codes) << shift | even_fields<bits>(codes >> 8) << (16 + shift);
}

/// The words of one row and block.
template <class Format>
void pack_codes(const uint8_t* codes, uint32_t* words) {
    if constexpr (Format::bits == 8) {
        for (int k = 0; k < 8; ++k) {  // the middle bytes change places: a pair is every other byte
            uint32_t word;
            std::memcpy(&word, codes + 4 * k, sizeof word);
            words[k] = (word & 0xff0000ff) | (word >> 8 & 0x0000ff00) | (word << 8 & 0x00ff0000);
        }
    } else {
        constexpr int high_bits = Format::bits - 4;
        for (int k = 4; k < Format::planes; ++k) words[k] = 0;
        for (int k = 0; k < 4; ++k) {
            uint64_t eight;
            std::memcpy(&eight, codes + 8 * k, sizeof eight);
            words[k] = four_pairs<4>(eight, 0);
            if constexpr (high_bits != 0) {
                constexpr int of_a_word = 4 / high_bits;  // groups of eight codes
                words[4 + k / of_a_word] |= four_pairs<high_bits>(eight >> 4, 4 * high_bits * (k % of_a_word));
            }
        }
        for (int k = 4; k < Format::planes; ++k) words[k] = std::rotl(words[k], 4);
    }
}

void put_half(uint16_t half, std::byte* out, int row) { std::memcpy(out + row * sizeof half, &half, sizeof half); }

/// Scales and minima of one row.
template <class Format>
void pack_scales(const typename Format::Block& block, int row, std::byte* record) {
    if constexpr (Format::power) {
        put_half(float_to_bf16(mxfp4_scale(block.e)), record + Format::scales_at, row);
    } else {
        put_half(block.d, record + Format::scales_at, row);
    }
    if constexpr (requires { block.m; }) put_half(block.m, record + Format::minima_at, row);
    if constexpr (requires { block.dmin; }) {
        put_half(block.dmin, record + Format::minima_at, row);
        const ScalesAndMins sub(block.scales);
        for (int j = 0; j < Format::subs; ++j) {
            record[Format::sub_scales_at + j * kPackedRows + row] = std::byte{sub.scale[j]};
            record[Format::sub_minima_at + j * kPackedRows + row] = std::byte{sub.min[j]};
        }
    } else if constexpr (Format::super) {
        for (int j = 0; j < Format::subs; ++j) {
            record[Format::sub_scales_at + j * kPackedRows + row] = static_cast<std::byte>(sub_scale(block, j));
        }
    }
}

template <class Format>
void pack_records(const std::byte* blocks, int64_t row_bytes, int rows, int64_t cols, std::byte* out) {
    constexpr int record_cols = Format::blocks * kBlock;
    for (int64_t record = 0; record < cols / record_cols; ++record, out += Format::bytes) {
        for (int row = 0; row < rows; ++row) {
            const auto& block = reinterpret_cast<const typename Format::Block*>(blocks + row * row_bytes)[record];
            pack_scales<Format>(block, row, out);
            for (int j = 0; j < Format::blocks; ++j) {
                uint8_t codes[kBlock];
                uint32_t words[Format::planes];
                read_codes(block, j, codes);
                pack_codes<Format>(codes, words);
                for (int k = 0; k < Format::planes; ++k) {
                    std::memcpy(out + sizeof(uint32_t) * ((j * Format::planes + k) * kPackedRows + row), &words[k], sizeof(uint32_t));
                }
            }
        }
    }
}

}  // namespace

size_t packed_group_bytes(BlockType type, int64_t cols) noexcept {
    size_t bytes = 0;
    visit_packed(type, [&]<class Format>(Format) { bytes = static_cast<size_t>(cols / (Format::blocks * kBlock)) * Format::bytes; });
    return bytes;
}

void pack_group(BlockType type, const std::byte* blocks, int64_t row_bytes, int rows, int64_t cols, std::byte* out) noexcept {
    visit_packed(type, [&]<class Format>(Format) { pack_records<Format>(blocks, row_bytes, rows, cols, out); });
}

}  // namespace dca::cpu
