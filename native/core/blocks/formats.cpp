#include "core/blocks/formats.h"

#include <cfloat>
#include <vector>

#include "core/blocks/kernels.h"
#include "core/blocks/layouts.h"
#include "core/error.h"
#include "core/machine/parallel.h"

namespace dca {
namespace {

/// Values that a thread takes at a time: a millisecond of the slower encoders, and few
/// enough to stay in its cache between the range check and the encoding.
constexpr int64_t kGrainValues = 64 * 1024;
static_assert(kGrainValues % kSuperBlock == 0);

constexpr float kHalfMax = 65504.0f;

struct Format {
    BlockInfo info;
    float max_abs;  // encoding refuses larger magnitudes: a scale, minimum or value would overflow
};

template <class Block>
constexpr Format blocks(BlockType type, const char* name, uint32_t block_size, float max_abs) {
    return {{type, name, block_size, sizeof(Block), true}, max_abs};
}

/// A format that is read and not written.
template <class Block>
constexpr Format read_only(BlockType type, const char* name, uint32_t block_size) {
    return {{type, name, block_size, sizeof(Block), false}, 0.0f};
}

constexpr Format kFormats[] = {
    {{BlockType::F32, "F32", 1, 4, true}, FLT_MAX},
    {{BlockType::F16, "F16", 1, 2, true}, kHalfMax},
    {{BlockType::BF16, "BF16", 1, 2, true}, 0x1.fep127f},
    blocks<BlockQ4_0>(BlockType::Q4_0, "Q4_0", kBlock, 8 * kHalfMax),
    blocks<BlockQ4_1>(BlockType::Q4_1, "Q4_1", kBlock, kHalfMax),
    blocks<BlockQ5_0>(BlockType::Q5_0, "Q5_0", kBlock, 16 * kHalfMax),
    blocks<BlockQ5_1>(BlockType::Q5_1, "Q5_1", kBlock, kHalfMax),
    blocks<BlockQ8_0>(BlockType::Q8_0, "Q8_0", kBlock, 127 * kHalfMax),
    blocks<BlockIQ4_NL>(BlockType::IQ4_NL, "IQ4_NL", kBlock, kHalfMax),
    blocks<BlockMXFP4>(BlockType::MXFP4, "MXFP4", kBlock, FLT_MAX),
    blocks<BlockIQ4_XS>(BlockType::IQ4_XS, "IQ4_XS", kSuperBlock, kHalfMax),
    read_only<BlockIQ3_S>(BlockType::IQ3_S, "IQ3_S", kSuperBlock),
    read_only<BlockIQ3_XXS>(BlockType::IQ3_XXS, "IQ3_XXS", kSuperBlock),
    read_only<BlockIQ2_S>(BlockType::IQ2_S, "IQ2_S", kSuperBlock),
    read_only<BlockIQ2_XS>(BlockType::IQ2_XS, "IQ2_XS", kSuperBlock),
    read_only<BlockIQ2_XXS>(BlockType::IQ2_XXS, "IQ2_XXS", kSuperBlock),
    blocks<BlockQ2_K>(BlockType::Q2_K, "Q2_K", kSuperBlock, kHalfMax),
    blocks<BlockQ3_K>(BlockType::Q3_K, "Q3_K", kSuperBlock, kHalfMax),
    blocks<BlockQ4_K>(BlockType::Q4_K, "Q4_K", kSuperBlock, kHalfMax),
    blocks<BlockQ5_K>(BlockType::Q5_K, "Q5_K", kSuperBlock, kHalfMax),
    blocks<BlockQ6_K>(BlockType::Q6_K, "Q6_K", kSuperBlock, kHalfMax),
};

const Format* find(uint32_t ggml_type) noexcept {
    for (const Format& format : kFormats)
        if (static_cast<uint32_t>(format.info.type) == ggml_type) return &format;
    return nullptr;
}

/// Encodes values [begin, end) of a tensor, both on block borders. `weights` of a row's columns may be null.
void encode_range(const Format& format, const float* in, int64_t begin, int64_t end, int64_t row_length, const float* weights,
                  std::byte* out) {
    const auto& [info, max_abs] = format;
    const BlockKernels kernels = block_kernels(info.type);
    const int64_t bad = begin + kernels.first_beyond(in + begin, end - begin, max_abs);
    if (bad < end) {
        fail(DCA_ERROR_ARGUMENT, "cannot encode as ", info.name, ": row ", bad / row_length, ", column ", bad % row_length, " is ", in[bad],
             ", must be finite and at most ", max_abs, " in magnitude");
    }
    const int64_t first_block = begin / info.block_size;
    if (weights != nullptr && kernels.encode_weighted != nullptr) {
        std::vector<float> importance(static_cast<size_t>(end - begin));
        for (int64_t i = begin; i < end; ++i) importance[static_cast<size_t>(i - begin)] = weights[i % row_length];
        return kernels.encode_weighted(in + begin, importance.data(), (end - begin) / info.block_size,
                                       out + first_block * info.block_bytes);
    }
    kernels.encode(in + begin, (end - begin) / info.block_size, out + first_block * info.block_bytes);
}

}  // namespace

const BlockInfo* block_info(uint32_t ggml_type) noexcept {
    const Format* format = find(ggml_type);
    return format ? &format->info : nullptr;
}

void decode_blocks(BlockType type, const std::byte* blocks, int64_t n_values, float* out) {
    block_kernels(type).decode(blocks, n_values / block_info(type).block_size, out);
}

void encode_blocks(BlockType type, const float* in, int64_t n_values, std::byte* out) { encode_rows(type, in, n_values, n_values, 1, out); }

void decode_rows(BlockType type, const std::byte* blocks, int64_t n_values, int threads, float* out) {
    const BlockInfo& info = block_info(type);
    parallel_ranges(n_values, kGrainValues, threads, [&](int64_t begin, int64_t end) {
        decode_blocks(type, blocks + begin / info.block_size * info.block_bytes, end - begin, out + begin);
    });
}

void encode_rows(BlockType type, const float* in, int64_t n_values, int64_t row_length, int threads, std::byte* out, const float* weights) {
    const Format& format = *find(static_cast<uint32_t>(type));
    parallel_ranges(n_values, kGrainValues, threads,
                    [&](int64_t begin, int64_t end) { encode_range(format, in, begin, end, row_length, weights, out); });
}

}  // namespace dca
