// Packed products against the dequantized weights in double precision, for every packed format, odd
// sizes, and every number of tokens that takes another path.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "core/blocks/formats.h"
#include "core/blocks/half.h"
#include "core/machine/isa.h"
#include "cpu/kernels/kernels.h"

namespace {

using namespace dca::cpu;
using dca::BlockType;

constexpr BlockType kPackedTypes[] = {BlockType::Q4_0,    BlockType::Q4_1,   BlockType::Q5_0,   BlockType::Q5_1,
                                      BlockType::Q8_0,    BlockType::Q4_K,   BlockType::Q5_K,   BlockType::Q6_K,
                                      BlockType::IQ4_NL,  BlockType::IQ4_XS, BlockType::MXFP4,  BlockType::IQ3_S,
                                      BlockType::IQ3_XXS, BlockType::IQ2_S,  BlockType::IQ2_XS, BlockType::IQ2_XXS};

/// The packed kernels that the backend would take; null if there are none.
const PackedKernels* packed_kernels() { return cpu_kernels(dca::chosen_isa()).packed; }

struct Matrix {
    BlockType type;
    int rows, cols;
    std::vector<float> dequantized;  // (rows, cols)
    std::vector<std::byte> groups;   // packed

    Matrix(BlockType type, int rows, int cols, std::mt19937& engine)
        : type(type), rows(rows), cols(cols), dequantized(static_cast<size_t>(rows) * cols) {
        const dca::BlockInfo& info = dca::block_info(type);
        const int64_t row_bytes = int64_t{cols} / info.block_size * info.block_bytes;
        std::vector<std::byte> blocks(static_cast<size_t>(rows * row_bytes));
        if (info.can_encode) {
            std::normal_distribution<float> normal(0.3f, 1.0f);  // not centred: minima and offsets must matter
            std::vector<float> values(dequantized.size());
            for (float& value : values) value = normal(engine);
            dca::encode_blocks(type, values.data(), int64_t{rows} * cols, blocks.data());
        } else {  // any bytes are points of a grid, under scales of a usual size
            for (std::byte& byte : blocks) byte = static_cast<std::byte>(engine());
            for (size_t at = 0; at < blocks.size(); at += info.block_bytes) {
                const uint16_t d = dca::float_to_half(0.001f * static_cast<float>(1 + engine() % 16));
                std::memcpy(blocks.data() + at, &d, sizeof d);
            }
        }
        dca::decode_blocks(type, blocks.data(), int64_t{rows} * cols, dequantized.data());
        const size_t group_bytes = packed_group_bytes(type, cols);
        groups.resize(group_bytes * ((rows + kPackedRows - 1) / kPackedRows));
        for (int row = 0; row < rows; row += kPackedRows) {
            pack_group(type, blocks.data() + row * row_bytes, row_bytes, std::min(kPackedRows, rows - row), cols,
                       groups.data() + row / kPackedRows * group_bytes);
        }
    }
};

/// Tokens whose blocks differ in size by orders of magnitude, one of them all zero.
std::vector<float> random_tokens(int tokens, int cols, std::mt19937& engine) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(tokens) * cols);
    for (size_t at = 0; at < x.size(); at += 32) {
        const float size = at == 32 ? 0.0f : std::exp(3.0f * normal(engine));
        for (size_t i = 0; i < 32; ++i) x[at + i] = size * normal(engine);
    }
    return x;
}

/// What a product of w's row and x may be off by. Rounding x to integers costs half a step, the
/// block's largest value / 65534, times |w|. The sum over blocks is in f32: every one of at most
/// 2 · cols / 16 terms, and the few products that make it, rounds by 2^-24 of sums that no term
/// exceeds: scale · code and minimum are at most twice and once the block's largest |w|.
double allowed(const float* w, const float* x, int cols) {
    double rounding = 0.0, size = 0.0;
    for (int block = 0; block < cols; block += 32) {
        double largest_x = 0.0, largest_w = 0.0, sum_w = 0.0, sum_x = 0.0;
        for (int i = block; i < block + 32; ++i) {
            largest_x = std::max(largest_x, std::fabs(double{x[i]}));
            largest_w = std::max(largest_w, std::fabs(double{w[i]}));
            sum_w += std::fabs(double{w[i]});
            sum_x += std::fabs(double{x[i]});
        }
        rounding += largest_x / 65534.0 * sum_w;
        size += 3.0 * largest_w * sum_x;
    }
    return rounding * 1.001 + (cols / 8.0 + 8.0) * 0x1p-24 * size;
}

/// Multiplies tokens that lie in panels of `lanes`, and checks every value of y and its surroundings.
bool product_is_right(const PackedKernels& kernels, const Matrix& w, const std::vector<float>& x, int tokens, int lanes, bool accumulate) {
    const int panels = (tokens + lanes - 1) / lanes;
    const int side_by_side = packed_tokens(tokens, lanes);
    const size_t bundle_bytes = packed_token_bytes(side_by_side, w.cols);
    std::vector<float> in(static_cast<size_t>(panels) * lanes * w.cols);
    for (int t = 0; t < tokens; ++t) {
        for (int f = 0; f < w.cols; ++f)
            in[(static_cast<size_t>(t / lanes) * w.cols + f) * lanes + t % lanes] = x[static_cast<size_t>(t) * w.cols + f];
    }
    std::vector<std::byte> bundles(bundle_bytes * ((tokens + side_by_side - 1) / side_by_side));
    for (int t = 0; t < tokens; t += side_by_side) {
        const float* lane = in.data() + static_cast<size_t>(t / lanes) * w.cols * lanes + t % lanes;
        kernels.pack_tokens(lane, lanes, std::min(tokens - t, side_by_side), w.cols, bundles.data() + t / side_by_side * bundle_bytes);
    }

    constexpr float before = 0.5f;
    const int guard = 3;  // rows of y beyond the product's
    std::vector<float> bias(w.rows), y(static_cast<size_t>(panels) * lanes * (w.rows + guard), before);
    for (int r = 0; r < w.rows; ++r) bias[r] = static_cast<float>(r % 7) - 3.0f;
    kernels.multiply({.type = w.type,
                      .w = w.groups.data(),
                      .rows = w.rows,
                      .cols = w.cols,
                      .x = bundles.data(),
                      .tokens = tokens,
                      .lanes = lanes,
                      .y = y.data(),
                      .y_panel_stride = static_cast<size_t>(w.rows + guard) * lanes,
                      .bias = accumulate ? bias.data() : nullptr,
                      .accumulate = accumulate});
    bool right = true;
    for (int t = 0; t < tokens; ++t) {
        const auto found = [&](int r) { return double{y[(static_cast<size_t>(t / lanes) * (w.rows + guard) + r) * lanes + t % lanes]}; };
        for (int r = 0; r < w.rows; ++r) {
            double sum = accumulate ? double{before} + bias[r] : 0.0;
            for (int i = 0; i < w.cols; ++i)
                sum += double{w.dequantized[static_cast<size_t>(r) * w.cols + i]} * x[static_cast<size_t>(t) * w.cols + i];
            right &= std::fabs(found(r) - sum) <=
                     allowed(&w.dequantized[static_cast<size_t>(r) * w.cols], &x[static_cast<size_t>(t) * w.cols], w.cols) +
                         1e-6 * (1.0 + std::fabs(sum));
        }
        for (int r = w.rows; r < w.rows + guard; ++r) right &= found(r) == before;
    }
    return right;
}

}  // namespace

TEST(packed_products_equal_dequantized_weights) {
    const PackedKernels* kernels = packed_kernels();
    if (kernels == nullptr) return;
    std::mt19937 engine(21);
    for (const BlockType type : kPackedTypes) {
        const std::vector<int> widths = dca::block_info(type).block_size == 256 ? std::vector{256, 768} : std::vector{32, 96, 576, 1536};
        for (const int cols : widths) {
            for (const int rows : {1, 15, 16, 17, 53}) {
                const Matrix w(type, rows, cols, engine);
                for (const int tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33}) {
                    const auto x = random_tokens(tokens, cols, engine);
                    if (tokens <= 8) CHECK(product_is_right(*kernels, w, x, tokens, 1, tokens % 2 == 0));
                    CHECK(product_is_right(*kernels, w, x, tokens, kPanelLanes, tokens % 2 == 1));
                }
            }
        }
    }
}

TEST(packed_vectors_get_the_bits_that_each_gets_alone) {
    const PackedKernels* kernels = packed_kernels();
    if (kernels == nullptr) return;
    std::mt19937 engine(22);
    for (const BlockType type : kPackedTypes) {
        const int cols = 768, rows = 53;
        const Matrix w(type, rows, cols, engine);
        const auto multiply = [&](const float* x, int tokens) {
            std::vector<std::byte> packed(packed_token_bytes(packed_tokens(tokens, 1), cols));
            kernels->pack_tokens(x, 1, tokens, cols, packed.data());
            std::vector<float> y(static_cast<size_t>(tokens) * rows);
            kernels->multiply({.type = type,
                               .w = w.groups.data(),
                               .rows = rows,
                               .cols = cols,
                               .x = packed.data(),
                               .tokens = tokens,
                               .lanes = 1,
                               .y = y.data(),
                               .y_panel_stride = rows,
                               .bias = nullptr,
                               .accumulate = false});
            return y;
        };
        const auto x = random_tokens(8, cols, engine);
        std::vector<float> alone;
        for (int t = 0; t < 8; ++t) {
            const auto y = multiply(x.data() + static_cast<size_t>(t) * cols, 1);
            alone.insert(alone.end(), y.begin(), y.end());
        }
        for (int tokens = 2; tokens <= 8; ++tokens) {
            const auto together = multiply(x.data(), tokens);
            CHECK(std::equal(together.begin(), together.end(), alone.begin()));
        }
    }
}

TEST(packed_products_keep_what_is_not_a_number) {
    const PackedKernels* kernels = packed_kernels();
    if (kernels == nullptr) return;
    std::mt19937 engine(22);
    const Matrix w(BlockType::Q4_0, 16, 64, engine);
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        for (const int lanes : {1, kPanelLanes}) {
            std::vector<float> x(static_cast<size_t>(64) * lanes, 1.0f), y(static_cast<size_t>(16) * lanes);
            x[static_cast<size_t>(5) * lanes] = bad;
            std::vector<std::byte> bundle(packed_token_bytes(packed_tokens(1, lanes), 64));
            kernels->pack_tokens(x.data(), lanes, 1, 64, bundle.data());
            kernels->multiply({.type = w.type,
                               .w = w.groups.data(),
                               .rows = 16,
                               .cols = 64,
                               .x = bundle.data(),
                               .tokens = 1,
                               .lanes = lanes,
                               .y = y.data(),
                               .y_panel_stride = y.size(),
                               .bias = nullptr,
                               .accumulate = false});
            for (int r = 0; r < 16; ++r) CHECK(!std::isfinite(y[static_cast<size_t>(r) * lanes]));
        }
    }
}

TEST(only_formats_with_a_layout_are_packed) {
    CHECK(packed_group_bytes(BlockType::Q4_0, 64) == 2 * (256 + 32));
    CHECK(packed_group_bytes(BlockType::Q6_K, 256) == 8 * 384 + 16 * 16 + 32);
    for (const BlockType type : {BlockType::F32, BlockType::F16, BlockType::BF16, BlockType::Q3_K, BlockType::Q2_K})
        CHECK(packed_group_bytes(type, 256) == 0);
    CHECK(packed_group_bytes(BlockType::MXFP4, 64) == packed_group_bytes(BlockType::Q4_0, 64));
    CHECK(packed_group_bytes(BlockType::IQ2_XXS, 256) == 8 * 256 + 8 * 16 + 32);
}
