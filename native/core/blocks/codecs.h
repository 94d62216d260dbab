// The table from a block format to its decoder and encoder, for the including translation unit's
// instruction set.
#pragma once

#include "core/blocks/kernels.h"
#include "core/blocks/decode.h"
#include "core/blocks/encode/encode.h"
#include "core/blocks/encode/k.h"

namespace dca {
namespace {

BlockKernels block_kernels_here(BlockType type) noexcept {
    switch (type) {
        case BlockType::F32: return {decode_f32, encode_f32, first_beyond};
        case BlockType::F16: return {decode_f16, encode_f16, first_beyond};
        case BlockType::BF16: return {decode_bf16, encode_bf16, first_beyond};
        case BlockType::Q4_0: return {decode_all<BlockQ4_0, kBlock>, encode_all<BlockQ4_0>, first_beyond};
        case BlockType::Q4_1: return {decode_all<BlockQ4_1, kBlock>, encode_all<BlockQ4_1>, first_beyond};
        case BlockType::Q5_0: return {decode_all<BlockQ5_0, kBlock>, encode_all<BlockQ5_0>, first_beyond};
        case BlockType::Q5_1: return {decode_all<BlockQ5_1, kBlock>, encode_all<BlockQ5_1>, first_beyond};
        case BlockType::Q8_0: return {decode_all<BlockQ8_0, kBlock>, encode_all<BlockQ8_0>, first_beyond};
        case BlockType::IQ4_NL: return {decode_all<BlockIQ4_NL, kBlock>, encode_iq4_nl, first_beyond};
        case BlockType::MXFP4: return {decode_all<BlockMXFP4, kBlock>, encode_all<BlockMXFP4>, first_beyond};
        case BlockType::IQ4_XS: return {decode_all<BlockIQ4_XS, kSuperBlock>, encode_iq4_xs, first_beyond};
        case BlockType::IQ3_S: return {decode_all<BlockIQ3_S, kSuperBlock>, nullptr, nullptr};
        case BlockType::IQ3_XXS: return {decode_all<BlockIQ3_XXS, kSuperBlock>, nullptr, nullptr};
        case BlockType::IQ2_S: return {decode_all<BlockIQ2_S, kSuperBlock>, nullptr, nullptr};
        case BlockType::IQ2_XS: return {decode_all<BlockIQ2_XS, kSuperBlock>, nullptr, nullptr};
        case BlockType::IQ2_XXS: return {decode_all<BlockIQ2_XXS, kSuperBlock>, nullptr, nullptr};
        case BlockType::Q2_K: return {decode_all<BlockQ2_K, kSuperBlock>, encode_q2_k, first_beyond};
        case BlockType::Q3_K: return {decode_all<BlockQ3_K, kSuperBlock>, encode_q3_k, first_beyond};
        case BlockType::Q4_K: return {decode_all<BlockQ4_K, kSuperBlock>, encode_q4_k, first_beyond};
        case BlockType::Q5_K: return {decode_all<BlockQ5_K, kSuperBlock>, encode_q5_k, first_beyond};
        case BlockType::Q6_K: return {decode_all<BlockQ6_K, kSuperBlock>, encode_q6_k, first_beyond};
    }
    return {};
}

}  // namespace
}  // namespace dca
