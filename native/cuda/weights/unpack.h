// GGUF's quantised blocks (core/blocks/layouts.h) as units of plain integers and scales, on the
// way to the planes of planes.h; host and device.
#pragma once

#include <cmath>

#include "core/blocks/formats.h"
#include "core/blocks/layouts.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

/// The four-bit values of a block whose byte i holds values i and i + 16.
DCA_HOST_DEVICE void unpack_nibbles(const uint8_t (&qs)[16], UnitValues& out) {
    for (int i = 0; i < 16; ++i) {
        out.q[i] = static_cast<int8_t>(qs[i] & 15);
        out.q[i + 16] = static_cast<int8_t>(qs[i] >> 4);
    }
}

DCA_HOST_DEVICE void unpack_fifth_bits(const uint8_t (&qh)[4], UnitValues& out) {
    for (int i = 0; i < kUnit; ++i) out.q[i] = static_cast<int8_t>(out.q[i] | (qh[i / 8] >> i % 8 & 1) << 4);
}

// unpack(block, u): unit u of the block.

DCA_HOST_DEVICE UnitValues unpack(const BlockQ4_0& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    out.scale[0] = float_of_half(block.d);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ4_1& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    out.scale[0] = float_of_half(block.d);
    out.minimum[0] = float_of_half(block.m);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ5_0& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    unpack_fifth_bits(block.qh, out);
    out.scale[0] = float_of_half(block.d);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ5_1& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    unpack_fifth_bits(block.qh, out);
    out.scale[0] = float_of_half(block.d);
    out.minimum[0] = float_of_half(block.m);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ8_0& block, int) {
    UnitValues out{};
    for (int i = 0; i < kUnit; ++i) out.q[i] = block.qs[i];
    out.scale[0] = float_of_half(block.d);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockIQ4_NL& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    out.scale[0] = float_of_half(block.d);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockIQ4_XS& block, int u) {
    UnitValues out{};
    for (int i = 0; i < 16; ++i) {
        out.q[i] = static_cast<int8_t>(block.qs[16 * u + i] & 15);
        out.q[i + 16] = static_cast<int8_t>(block.qs[16 * u + i] >> 4);
    }
    const int scale = (block.scales_l[u / 2] >> 4 * (u % 2) & 15) | (block.scales_h >> 2 * u & 3) << 4;
    out.scale[0] = float_of_half(block.d) * static_cast<float>(scale - 32);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockMXFP4& block, int) {
    UnitValues out{};
    unpack_nibbles(block.qs, out);
    out.scale[0] = ldexpf(1.0f, int{block.e} - 128);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ2_K& block, int u) {
    UnitValues out{};
    for (int i = 0; i < kUnit; ++i) out.q[i] = static_cast<int8_t>(block.qs[32 * (u / 4) + i] >> 2 * (u % 4) & 3);
    for (int g = 0; g < 2; ++g) {
        out.scale[g] = float_of_half(block.d) * static_cast<float>(block.scales[2 * u + g] & 15);
        out.minimum[g] = -float_of_half(block.dmin) * static_cast<float>(block.scales[2 * u + g] >> 4);
    }
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ3_K& block, int u) {
    UnitValues out{};
    for (int i = 0; i < kUnit; ++i) {
        const int low = block.qs[32 * (u / 4) + i] >> 2 * (u % 4) & 3;
        out.q[i] = static_cast<int8_t>(low | (block.hmask[i] >> u & 1) << 2);
    }
    for (int g = 0; g < 2; ++g) {
        const int j = 2 * u + g;
        const int scale = (block.scales[j % 8] >> 4 * (j / 8) & 15) | (block.scales[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
        out.scale[g] = float_of_half(block.d) * static_cast<float>(scale - 32);
    }
    return out;
}

/// The six-bit scale and minimum of sub-block j of Q4_K and Q5_K.
DCA_HOST_DEVICE void unpack_scale(const uint8_t (&scales)[12], int j, int& scale, int& minimum) {
    if (j < 4) {
        scale = scales[j] & 63;
        minimum = scales[j + 4] & 63;
    } else {
        scale = (scales[j + 4] & 15) | scales[j - 4] >> 6 << 4;
        minimum = scales[j + 4] >> 4 | scales[j] >> 6 << 4;
    }
}

template <class Block>
DCA_HOST_DEVICE UnitValues unpack_k(const Block& block, int u) {
    UnitValues out{};
    int scale = 0, minimum = 0;
    unpack_scale(block.scales, u, scale, minimum);
    for (int i = 0; i < kUnit; ++i) out.q[i] = static_cast<int8_t>(block.qs[32 * (u / 2) + i] >> 4 * (u % 2) & 15);
    out.scale[0] = float_of_half(block.d) * static_cast<float>(scale);
    out.minimum[0] = -float_of_half(block.dmin) * static_cast<float>(minimum);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ4_K& block, int u) { return unpack_k(block, u); }

DCA_HOST_DEVICE UnitValues unpack(const BlockQ5_K& block, int u) {
    UnitValues out = unpack_k(block, u);
    for (int i = 0; i < kUnit; ++i) out.q[i] = static_cast<int8_t>(out.q[i] | (block.qh[i] >> u & 1) << 4);
    return out;
}

DCA_HOST_DEVICE UnitValues unpack(const BlockQ6_K& block, int u) {
    UnitValues out{};
    for (int i = 0; i < kUnit; ++i) {
        const int n = u / 4, r = 32 * (u % 4) + i;
        const int low = block.ql[64 * n + r % 64] >> 4 * (r / 64) & 15;
        const int high = block.qh[32 * n + r % 32] >> 2 * (r / 32) & 3;
        out.q[i] = static_cast<int8_t>(low | high << 4);
    }
    for (int g = 0; g < 2; ++g) out.scale[g] = float_of_half(block.d) * static_cast<float>(block.scales[2 * u + g]);
    return out;
}

/// Calls visit(Block{}, P{}) with a quantised type's block and the planes it becomes; false for
/// what becomes 16-bit floats: F32, F16, BF16 and the formats of grids.
template <class Visit>
bool visit_blocks(BlockType type, Visit&& visit) {
    switch (type) {
        case BlockType::Q4_0: visit(BlockQ4_0{}, PlanesQ4{}); return true;
        case BlockType::Q4_1: visit(BlockQ4_1{}, PlanesQ4M{}); return true;
        case BlockType::Q5_0: visit(BlockQ5_0{}, PlanesQ5{}); return true;
        case BlockType::Q5_1: visit(BlockQ5_1{}, PlanesQ5M{}); return true;
        case BlockType::Q8_0: visit(BlockQ8_0{}, PlanesQ8{}); return true;
        case BlockType::IQ4_NL: visit(BlockIQ4_NL{}, PlanesIQ4{}); return true;
        case BlockType::Q2_K: visit(BlockQ2_K{}, PlanesQ2M{}); return true;
        case BlockType::Q3_K: visit(BlockQ3_K{}, PlanesQ3{}); return true;
        case BlockType::Q4_K: visit(BlockQ4_K{}, PlanesQ4M{}); return true;
        case BlockType::Q5_K: visit(BlockQ5_K{}, PlanesQ5M{}); return true;
        case BlockType::Q6_K: visit(BlockQ6_K{}, PlanesQ6{}); return true;
        case BlockType::IQ4_XS: visit(BlockIQ4_XS{}, PlanesIQ4{}); return true;
        case BlockType::MXFP4: visit(BlockMXFP4{}, PlanesFP4{}); return true;
        case BlockType::IQ3_S:
        case BlockType::IQ3_XXS:
        case BlockType::IQ2_S:
        case BlockType::IQ2_XS:
        case BlockType::IQ2_XXS:  // decoded on the host (uploader.cpp)
        case BlockType::F32:
        case BlockType::F16:
        case BlockType::BF16: break;
    }
    return false;
}

}  // namespace dca::cuda
