// Block formats: what does not need a second implementation to compare with. Decoding to the bit and
// encoding quality are tested against the gguf package in tests/runtime/test_blocks.py.
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/blocks/formats.h"
#include "core/blocks/kernels.h"
#include "core/error.h"
#include "core/blocks/half.h"
#include "core/machine/parallel.h"

namespace {

using dca::BlockType;

constexpr BlockType kTypes[] = {BlockType::F32,  BlockType::F16,  BlockType::BF16, BlockType::Q4_0,   BlockType::Q4_1,
                                BlockType::Q5_0, BlockType::Q5_1, BlockType::Q8_0, BlockType::IQ4_NL, BlockType::Q2_K,
                                BlockType::Q3_K, BlockType::Q4_K, BlockType::Q5_K, BlockType::Q6_K};

int64_t bytes_of(BlockType type, int64_t n_values) {
    const dca::BlockInfo& info = dca::block_info(type);
    return n_values / info.block_size * info.block_bytes;
}

/// Normal values, each row of 256 with a magnitude of its own; some rows are constant, zero or sparse.
std::vector<float> weights(int64_t n_rows, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(n_rows) * 256);
    for (int64_t row = 0; row < n_rows; ++row) {
        const float scale = std::exp(2.0f * normal(random) - 4.0f);
        for (int i = 0; i < 256; ++i) {
            float& value = values[static_cast<size_t>(row * 256 + i)];
            value = scale * normal(random);
            if (row % 7 == 3) value = 0.0f;
            if (row % 7 == 4) value = scale;
            if (row % 7 == 5) value = -scale;
            if (row % 7 == 6 && i % 50 != 0) value = 0.0f;
        }
    }
    return values;
}

std::vector<std::byte> encode(BlockType type, const std::vector<float>& values, dca::Isa isa = dca::Isa::Generic) {
    std::vector<std::byte> blocks(static_cast<size_t>(bytes_of(type, static_cast<int64_t>(values.size()))));
    dca::block_kernels(type, isa).encode(values.data(), static_cast<int64_t>(values.size()) / dca::block_info(type).block_size,
                                         blocks.data());
    return blocks;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        norm += static_cast<double>(a[i]) * a[i];
    }
    return std::sqrt(sum / norm);
}

std::string message_of(BlockType type, const std::vector<float>& values, int64_t row_length) {
    std::vector<std::byte> blocks(static_cast<size_t>(bytes_of(type, static_cast<int64_t>(values.size()))));
    try {
        dca::encode_rows(type, values.data(), static_cast<int64_t>(values.size()), row_length, 2, blocks.data());
    } catch (const dca::Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST(every_half_has_the_value_ieee_754_gives_it) {
    bool all = true;
    for (int sign = 0; sign < 2; ++sign) {
        for (int exponent = 0; exponent < 31; ++exponent) {
            for (int fraction = 0; fraction < 1024; ++fraction) {
                const double value =
                    (sign ? -1 : 1) * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
                const float got = dca::half_to_float(static_cast<uint16_t>(sign << 15 | exponent << 10 | fraction));
                all = all && static_cast<double>(got) == value && std::signbit(got) == (sign == 1);
            }
        }
    }
    CHECK(all);
    CHECK(dca::half_to_float(0x7c00) == std::numeric_limits<float>::infinity());
    CHECK(dca::half_to_float(0xfc00) == -std::numeric_limits<float>::infinity());
    CHECK(std::isnan(dca::half_to_float(0x7e00)));
}

TEST(rounding_to_half_takes_the_nearest_and_of_two_the_even_one) {
    bool all = true;
    for (int half = 0; half < 0x7bff; ++half) {  // the half and its upper neighbour
        const float low = dca::half_to_float(static_cast<uint16_t>(half)), high = dca::half_to_float(static_cast<uint16_t>(half + 1));
        const float middle = 0.5f * (low + high);  // exact in f32
        all = all && dca::float_to_half(low) == half;
        all = all && dca::float_to_half(std::nextafterf(middle, 0.0f)) == half;
        all = all && dca::float_to_half(middle) == (half % 2 == 0 ? half : half + 1);
        all = all && dca::float_to_half(std::nextafterf(middle, 1e9f)) == half + 1;
        all = all && dca::float_to_half(-high) == (0x8000 | (half + 1));
    }
    CHECK(all);
    CHECK(dca::float_to_half(std::nextafterf(65520.0f, 0.0f)) == 0x7bff);
    CHECK(dca::float_to_half(65520.0f) == 0x7c00);
    CHECK(dca::float_to_half(std::numeric_limits<float>::infinity()) == 0x7c00);
    CHECK(std::isnan(dca::half_to_float(dca::float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(rounding_to_bfloat16_takes_the_nearest_and_of_two_the_even_one) {
    bool all = true;
    for (int bf16 = 0; bf16 < 0x7f7f; ++bf16) {
        const float low = dca::bf16_to_float(static_cast<uint16_t>(bf16)), high = dca::bf16_to_float(static_cast<uint16_t>(bf16 + 1));
        const float middle = static_cast<float>(0.5 * (static_cast<double>(low) + high));
        all = all && dca::float_to_bf16(low) == bf16;
        all = all && dca::float_to_bf16(std::nextafterf(middle, 0.0f)) == bf16;
        all = all && dca::float_to_bf16(middle) == (bf16 % 2 == 0 ? bf16 : bf16 + 1);
        all = all && dca::float_to_bf16(std::nextafterf(middle, high)) == bf16 + 1;
    }
    CHECK(all);
    CHECK(std::isnan(dca::bf16_to_float(dca::float_to_bf16(std::bit_cast<float>(0x7f800001)))));
}

TEST(unknown_ggml_types_have_no_format) {
    for (const BlockType type : kTypes) CHECK(dca::block_info(static_cast<uint32_t>(type)) == &dca::block_info(type));
    for (const uint32_t type : {4u, 9u, 15u, 31u, 0xffffffffu}) CHECK(dca::block_info(type) == nullptr);
}

TEST(every_instruction_set_decodes_to_the_same_bits) {
    std::mt19937 random(2);
    for (const BlockType type : kTypes) {
        const int64_t n_blocks = 67;
        const size_t n_values = n_blocks * dca::block_info(type).block_size;
        std::vector<std::byte> blocks(static_cast<size_t>(bytes_of(type, static_cast<int64_t>(n_values))));
        for (auto& byte : blocks) byte = std::byte(random() & 0xff);
        std::vector<float> expected(n_values), got(n_values);
        dca::block_kernels(type, dca::Isa::Generic).decode(blocks.data(), n_blocks, expected.data());
        for (const dca::Isa isa : {dca::Isa::Avx2, dca::Isa::Avx512}) {
            if (!dca::machine_has(isa)) continue;
            dca::block_kernels(type, isa).decode(blocks.data(), n_blocks, got.data());
            bool same = true;
            for (size_t i = 0; i < n_values; ++i) {
                same = same && (std::bit_cast<uint32_t>(got[i]) == std::bit_cast<uint32_t>(expected[i]) ||
                                (std::isnan(got[i]) && std::isnan(expected[i])));
            }
            CHECK(same);
        }
    }
}

TEST(every_instruction_set_encodes_to_the_same_bytes) {
    const std::vector<float> values = weights(35);
    for (const BlockType type : kTypes) {
        const auto expected = encode(type, values);
        for (const dca::Isa isa : {dca::Isa::Avx2, dca::Isa::Avx512})
            if (dca::machine_has(isa)) CHECK(encode(type, values, isa) == expected);
    }
}

TEST(a_block_does_not_depend_on_its_neighbours) {
    const std::vector<float> values = weights(5);
    for (const BlockType type : kTypes) {
        const auto together = encode(type, values);
        std::vector<std::byte> one_by_one;
        const uint32_t size = dca::block_info(type).block_size;
        for (size_t first = 0; first < values.size(); first += size) {
            const auto block = encode(type, {values.begin() + long(first), values.begin() + long(first + size)});
            one_by_one.insert(one_by_one.end(), block.begin(), block.end());
        }
        CHECK(one_by_one == together);
    }
}

TEST(encoding_what_was_decoded_changes_nothing_where_the_formula_gives_the_scale_back) {
    // F32, F16 and BF16 hold their own values. Q8_0 and Q4_0 do where some level is the extreme one.
    const std::vector<float> values = weights(14);
    for (const BlockType type : {BlockType::F32, BlockType::F16, BlockType::BF16}) {
        const auto blocks = encode(type, values);
        std::vector<float> decoded(values.size());
        dca::decode_blocks(type, blocks.data(), static_cast<int64_t>(values.size()), decoded.data());
        CHECK(encode(type, decoded) == blocks);
    }
    const float d = 0.0078125f;
    std::vector<float> q8(256), q4(256);
    for (int i = 0; i < 256; ++i) {
        q8[static_cast<size_t>(i)] = d * static_cast<float>(i % 32 == 0 ? 127 : (i * 37) % 255 - 127);
        q4[static_cast<size_t>(i)] = d * static_cast<float>(i % 32 == 0 ? -8 : (i * 37) % 16 - 8);
    }
    std::vector<float> decoded(256);
    dca::decode_blocks(BlockType::Q8_0, encode(BlockType::Q8_0, q8).data(), 256, decoded.data());
    CHECK(decoded == q8);
    dca::decode_blocks(BlockType::Q4_0, encode(BlockType::Q4_0, q4).data(), 256, decoded.data());
    CHECK(decoded == q4);
}

TEST(threads_do_not_change_the_bytes) {
    const std::vector<float> values = weights(1030);  // more than four ranges, the last one short
    for (const BlockType type : {BlockType::F16, BlockType::Q8_0, BlockType::Q4_K}) {
        const auto expected = encode(type, values);
        std::vector<std::byte> blocks(expected.size());
        dca::encode_rows(type, values.data(), static_cast<int64_t>(values.size()), 256, 3, blocks.data());
        CHECK(blocks == expected);

        std::vector<float> one(values.size()), many(values.size());
        dca::decode_blocks(type, blocks.data(), static_cast<int64_t>(values.size()), one.data());
        dca::decode_rows(type, blocks.data(), static_cast<int64_t>(values.size()), 3, many.data());
        CHECK(one == many);
    }
}

TEST(more_bits_come_closer) {
    const std::vector<float> values = weights(70);
    const auto error = [&](BlockType type) {
        std::vector<float> decoded(values.size());
        dca::decode_blocks(type, encode(type, values).data(), static_cast<int64_t>(values.size()), decoded.data());
        return distance(values, decoded);
    };
    CHECK(error(BlockType::Q2_K) > error(BlockType::Q3_K));
    CHECK(error(BlockType::Q3_K) > error(BlockType::Q4_K));
    CHECK(error(BlockType::Q4_K) > error(BlockType::Q5_K));
    CHECK(error(BlockType::Q5_K) > error(BlockType::Q6_K));
    CHECK(error(BlockType::Q4_0) > error(BlockType::IQ4_NL));
    CHECK(error(BlockType::Q6_K) > error(BlockType::Q8_0));
    CHECK(error(BlockType::F32) == 0.0);
}

TEST(encoding_refuses_values_that_are_not_finite) {
    for (const BlockType type : kTypes) {
        for (const float bad :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
            for (const size_t where : {static_cast<size_t>(0), static_cast<size_t>(255), static_cast<size_t>(511)}) {
                std::vector<float> values = weights(2);
                values[where] = bad;
                std::vector<std::byte> blocks(static_cast<size_t>(bytes_of(type, 512)));
                CHECK_ERROR(dca::encode_blocks(type, values.data(), 512, blocks.data()), DCA_ERROR_ARGUMENT);
            }
        }
    }
}

TEST(encoding_refuses_what_a_half_cannot_hold) {
    std::vector<float> values = weights(1);
    values[3] = 70000.0f;
    for (const BlockType type : {BlockType::F16, BlockType::Q4_1, BlockType::Q4_K, BlockType::Q6_K})
        CHECK(!message_of(type, values, 256).empty());
    for (const BlockType type : {BlockType::F32, BlockType::BF16, BlockType::Q8_0}) CHECK(message_of(type, values, 256).empty());
}

TEST(the_largest_accepted_values_decode_to_finite_ones) {
    for (const BlockType type : kTypes) {
        if (type == BlockType::F32 || type == BlockType::BF16) continue;
        std::vector<float> values = weights(8);
        const float largest = 65504.0f;
        for (int i = 0; i < 256; ++i) {
            values[static_cast<size_t>(i)] = largest;
            values[static_cast<size_t>(256 + i)] = -largest;
            values[static_cast<size_t>(512 + i)] = i % 2 ? largest : -largest;
        }
        std::vector<float> decoded(values.size());
        dca::decode_blocks(type, encode(type, values).data(), static_cast<int64_t>(values.size()), decoded.data());
        bool finite = true;
        for (const float value : decoded) finite = finite && std::isfinite(value);
        CHECK(finite);
    }
}

TEST(the_error_names_the_first_bad_row_and_column) {
    std::vector<float> values = weights(1030);
    values[700 * 256 + 5] = -std::numeric_limits<float>::infinity();
    values[300 * 256 + 17] = std::numeric_limits<float>::quiet_NaN();
    const std::string message = message_of(BlockType::Q8_0, values, 256);
    CHECK(message.find("Q8_0") != std::string::npos);
    CHECK(message.find("row 300, column 17 is nan") != std::string::npos);
}

TEST(parallel_ranges_cover_everything_once) {
    for (const int64_t n : {static_cast<int64_t>(0), static_cast<int64_t>(1), static_cast<int64_t>(99), static_cast<int64_t>(100),
                            static_cast<int64_t>(1001)}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
        dca::parallel_ranges(n, 100, 4, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
        });
        bool once = true;
        for (const auto& count : visits) once = once && count == 1;
        CHECK(once);
    }
}

TEST(parallel_ranges_throw_the_first_failure) {
    std::string first;
    try {
        dca::parallel_ranges(1000, 10, 4, [](int64_t begin, int64_t) {
            if (begin >= 500) dca::fail(DCA_ERROR_ARGUMENT, begin);
        });
    } catch (const dca::Error& error) {
        first = error.what();
    }
    CHECK(first == "500");
}
