// The CUDA backend's weight layout and its arithmetic, which compile for the host as well: every
// block format packed into planes, against the library's own decoder.
#include <cmath>
#include <random>
#include <vector>

#include "check.h"
#include "core/blocks/formats.h"
#include "cuda/weights/unpack.h"

namespace {

using namespace dca;
using namespace dca::cuda;

constexpr int kValues = 4 * kSuperBlock;
constexpr double kHalfRounding = 0x1p-11;  // scales that are products are rounded to f16

constexpr BlockType kQuantised[] = {BlockType::Q4_0,   BlockType::Q4_1,   BlockType::Q5_0,  BlockType::Q5_1, BlockType::Q8_0,
                                    BlockType::IQ4_NL, BlockType::IQ4_XS, BlockType::MXFP4, BlockType::Q2_K, BlockType::Q3_K,
                                    BlockType::Q4_K,   BlockType::Q5_K,   BlockType::Q6_K};

struct Packed {
    Matrix matrix;
    std::vector<uint32_t> low, high;
    std::vector<uint16_t> scales;
};

template <class Block, class P>
void pack(const std::vector<std::byte>& blocks, Packed& out) {
    constexpr int units = kValues / kUnit;
    out.low.resize(units * P::kLowWords);
    out.high.resize(units * P::kHighWords + 1);
    out.scales.resize(units * P::kScaleHalves);
    out.matrix = {P::kFormat, 1, kValues, out.low.data(), out.high.data(), out.scales.data()};
    const auto* typed = reinterpret_cast<const Block*>(blocks.data());
    const int units_a_block = units / static_cast<int>(blocks.size() / sizeof(Block));
    for (int u = 0; u < units; ++u) store_unit<P>(out.matrix, 0, u, pack_unit<P>(unpack(typed[u / units_a_block], u % units_a_block)));
}

std::vector<float> random_values(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(kValues);
    for (float& value : values) value = normal(random);
    return values;
}

std::vector<std::byte> encoded(BlockType type, const std::vector<float>& values) {
    const BlockInfo& info = block_info(type);
    std::vector<std::byte> blocks(kValues / info.block_size * info.block_bytes);
    encode_blocks(type, values.data(), kValues, blocks.data());
    return blocks;
}

template <class P>
std::vector<float> decoded(const Matrix& matrix) {
    std::vector<float> values;
    for (int u = 0; u < kValues / kUnit; ++u) {
        for (int c = 0; c < 4; ++c) {
            float eight[8];
            decode_eight<P>(matrix, 0, u, c, eight);
            values.insert(values.end(), eight, eight + 8);
        }
    }
    return values;
}

/// dot_piece over the row, with activations quantised as the kernels do it.
template <class P>
double row_product(const Packed& packed, const std::vector<float>& x) {
    constexpr int weights = Piece<P>::kWeights;
    double total = 0.0;
    for (int first = 0; first < kValues; first += kUnit) {
        float largest = 0.0f;
        for (int i = 0; i < kUnit; ++i) largest = std::max(largest, std::fabs(x[first + i]));
        const float scale = largest / 32767.0f;
        int32_t sum[2] = {};
        Words words[4] = {};
        for (int i = 0; i < kUnit; ++i) {
            const auto q = static_cast<int16_t>(std::lround(x[first + i] / scale));
            sum[i / 16] += q;
            words[i / 8].w[i / 2 % 4] |= uint32_t{static_cast<uint16_t>(q)} << 16 * (i % 2);
        }
        for (int at = 0; at < kUnit; at += weights) {
            const int u = first / kUnit;
            Piece<P> piece{};
            for (int i = 0; i < 4; ++i) piece.low.w[i] = packed.low[u * P::kLowWords + at / 4 + i];
            for (int i = 0; i < P::kHighWords; ++i) piece.high[i] = packed.high[u * P::kHighWords + i];
            for (int i = 0; i < P::kScaleHalves; ++i) piece.scales[i] = packed.scales[u * P::kScaleHalves + i];
            Words chunks[Piece<P>::kChunks];
            for (int c = 0; c < Piece<P>::kChunks; ++c) chunks[c] = words[at / 8 + c];
            total += dot_piece<P>(piece, chunks, activation_block<P>(scale, sum[0], sum[1]));
        }
    }
    return total;
}

}  // namespace

TEST(cuda_planes_decode_as_the_blocks_do) {
    for (const BlockType type : kQuantised) {
        const auto blocks = encoded(type, random_values(1));
        std::vector<float> expected(kValues);
        decode_blocks(type, blocks.data(), kValues, expected.data());
        const bool known = visit_blocks(type, [&](auto block, auto planes) {
            using P = decltype(planes);
            Packed packed;
            pack<decltype(block), P>(blocks, packed);
            const auto found = decoded<P>(packed.matrix);
            for (int i = 0; i < kValues; ++i) {
                // scale and minimum are each off by at most half a unit in the last place of f16,
                // and neither product exceeds a few times the block's values (normal, below 5).
                CHECK(std::fabs(found[i] - expected[i]) <= 16 * kHalfRounding);
            }
        });
        CHECK(known);
    }
}

/// Blocks of random bytes, whose f16 scale, if they begin with one, is finite.
std::vector<std::byte> random_blocks(BlockType type, uint32_t seed) {
    std::mt19937 random(seed);
    const BlockInfo& info = block_info(type);
    std::vector<std::byte> blocks(kValues / info.block_size * info.block_bytes);
    for (std::byte& byte : blocks) byte = static_cast<std::byte>(random());
    if (type == BlockType::MXFP4) return blocks;
    for (size_t at = 1; at < blocks.size(); at += info.block_bytes) blocks[at] &= std::byte{0xbf};
    return blocks;
}

TEST(cuda_planes_of_levels_decode_to_the_bit) {
    for (const BlockType type : {BlockType::IQ4_NL, BlockType::MXFP4}) {
        for (uint32_t seed = 0; seed < 50; ++seed) {
            const auto blocks = random_blocks(type, seed);
            std::vector<float> expected(kValues);
            decode_blocks(type, blocks.data(), kValues, expected.data());
            visit_blocks(type, [&](auto block, auto planes) {
                using P = decltype(planes);
                Packed packed;
                pack<decltype(block), P>(blocks, packed);
                CHECK(decoded<P>(packed.matrix) == expected);
            });
        }
    }
}

TEST(cuda_planes_keep_file_scales_exact) {
    for (const BlockType type : {BlockType::Q4_0, BlockType::Q5_0, BlockType::Q8_0, BlockType::IQ4_NL, BlockType::MXFP4}) {
        const auto blocks = encoded(type, random_values(2));
        std::vector<float> expected(kValues);
        decode_blocks(type, blocks.data(), kValues, expected.data());
        visit_blocks(type, [&](auto block, auto planes) {
            using P = decltype(planes);
            Packed packed;
            pack<decltype(block), P>(blocks, packed);
            CHECK(decoded<P>(packed.matrix) == expected);
        });
    }
}

TEST(cuda_planes_round_small_scales_as_large_ones) {
    auto values = random_values(5);
    for (float& value : values) value *= 1e-3f;  // scales near the least f16 that keep all their bits
    const auto blocks = encoded(BlockType::IQ4_XS, values);
    std::vector<float> expected(kValues);
    decode_blocks(BlockType::IQ4_XS, blocks.data(), kValues, expected.data());
    Packed packed;
    pack<BlockIQ4_XS, PlanesIQ4>(blocks, packed);
    const auto found = decoded<PlanesIQ4>(packed.matrix);
    for (int i = 0; i < kValues; ++i) CHECK(std::fabs(found[i] - expected[i]) <= std::fabs(expected[i]) * kHalfRounding);
}

TEST(cuda_planes_multiply) {
    const auto x = random_values(3);
    for (const BlockType type : kQuantised) {
        const auto blocks = encoded(type, random_values(4));
        visit_blocks(type, [&](auto block, auto planes) {
            using P = decltype(planes);
            Packed packed;
            pack<decltype(block), P>(blocks, packed);
            const auto weights = decoded<P>(packed.matrix);
            double expected = 0.0, magnitude = 0.0;
            for (int i = 0; i < kValues; ++i) {
                expected += double{weights[i]} * x[i];
                magnitude += std::fabs(double{weights[i]} * x[i]);
            }
            // Activations are rounded to 2^-16 of their block's largest, itself a few times the mean.
            CHECK(std::fabs(row_product<P>(packed, x) - expected) <= magnitude * 0x1p-14);
        });
    }
}
