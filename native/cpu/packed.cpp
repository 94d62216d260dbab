#include "cpu/packed.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/blocks/scales_and_mins.h"

namespace dca::cpu {

namespace {

// The codes of a format's block `j` of 32 columns, one byte each, as block_layouts.h numbers them.

void nibbles(const uint8_t (&qs)[16], uint8_t* codes) {
    for (int i = 0; i < 16; ++i) {
        codes[i] = qs[i] & 15;
        codes[16 + i] = qs[i] >> 4;
    }
}

void add_fifth_bits(const uint8_t (&qh)[4], uint8_t* codes) {
    uint32_t bits;
    std::memcpy(&bits, qh, sizeof bits);
    for (int i = 0; i < kBlock; ++i) codes[i] = uint8_t(codes[i] | (bits >> i & 1) << 4);
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
        codes[i] = uint8_t((block.qs[32 * (j / 2) + i] >> (4 * (j % 2)) & 15) | (block.qh[i] >> j & 1) << 4);
    }
}
void read_codes(const BlockQ6_K& block, int j, uint8_t* codes) {
    const uint8_t* low = block.ql + 64 * (j / 4) + 32 * (j % 2);
    const uint8_t* high = block.qh + 32 * (j / 4);
    for (int i = 0; i < kBlock; ++i) {
        codes[i] = uint8_t((low[i] >> (4 * (j % 4 / 2)) & 15) | (high[i] >> (2 * (j % 4)) & 3) << 4);
    }
}

/// The low nibbles of bytes 0, 2, 4, 6 of `bytes`, one after another.
uint32_t even_nibbles(uint64_t bytes) {
    bytes &= 0x000f000f000f000f;
    bytes = (bytes | bytes >> 12) & 0x000000ff000000ff;
    return uint32_t(bytes | bytes >> 24) & 0xffff;
}

/// The words of one row and block.
template <class Format>
void pack_codes(const uint8_t* codes, uint32_t* words) {
    if constexpr (Format::bits == 8) {
        // Byte 2 of a word is its second column and byte 1 its third: a pair is every other byte.
        for (int k = 0; k < 8; ++k) {
            const uint8_t* at = codes + 4 * k;
            words[k] = at[0] | uint32_t{at[2]} << 8 | uint32_t{at[1]} << 16 | uint32_t{at[3]} << 24;
        }
    } else {
        for (int k = 0; k < 4; ++k) {
            uint64_t bytes;
            std::memcpy(&bytes, codes + 8 * k, sizeof bytes);
            words[k] = even_nibbles(bytes) | even_nibbles(bytes >> 8) << 16;
        }
        constexpr int high_bits = Format::bits - 4;
        constexpr int pairs = high_bits == 0 ? packed_pairs : 16 / high_bits;  // of a word
        for (int k = 4; k < Format::planes; ++k) {
            uint32_t word = 0;
            for (int i = 0; i < pairs; ++i) {
                const uint8_t* pair = codes + 2 * ((k - 4) * pairs + i);
                word |= uint32_t(pair[0] >> 4) << (high_bits * i) | uint32_t(pair[1] >> 4) << (16 + high_bits * i);
            }
            words[k] = std::rotl(word, 4);
        }
    }
}

void put_half(uint16_t half, std::byte* out, int row) { std::memcpy(out + row * sizeof half, &half, sizeof half); }

/// Scales and minima of one row.
template <class Format>
void pack_scales(const typename Format::Block& block, int row, std::byte* record) {
    put_half(block.d, record + Format::scales_at, row);
    if constexpr (requires { block.m; }) put_half(block.m, record + Format::minima_at, row);
    if constexpr (requires { block.dmin; }) {
        put_half(block.dmin, record + Format::minima_at, row);
        const ScalesAndMins sub(block.scales);
        for (int j = 0; j < Format::subs; ++j) {
            record[Format::sub_scales_at + j * packed_rows + row] = std::byte{sub.scale[j]};
            record[Format::sub_minima_at + j * packed_rows + row] = std::byte{sub.min[j]};
        }
    } else if constexpr (Format::super) {
        for (int j = 0; j < Format::subs; ++j) {
            record[Format::sub_scales_at + j * packed_rows + row] = static_cast<std::byte>(block.scales[j]);
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
                    std::memcpy(out + sizeof(uint32_t) * ((j * Format::planes + k) * packed_rows + row), &words[k], sizeof(uint32_t));
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
