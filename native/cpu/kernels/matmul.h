// Prefill's matrix products: weight rows, dequantized to f32, times panels of 32 tokens.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"

namespace dca::cpu {
namespace {

// What a tile of sums spans: as many registers as leave some for the factors.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;  // 12 × 2 accumulators of 32 registers
constexpr int kTileLanes = 32;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;  // 6 × 2 accumulators of 16 registers
constexpr int kTileLanes = 16;
#elif defined(__aarch64__)
constexpr int kTileRows = 12;  // 12 × 2 accumulators of 32 registers
constexpr int kTileLanes = 8;
#else
constexpr int kTileRows = 6;
constexpr int kTileLanes = 8;
#endif
constexpr int kFewLanes = kTileLanes < kPanelLanes / 2 ? kTileLanes : kPanelLanes / 2;

/// c (Rows × 32) += or = a b: a (Rows × k) at strides ARow and AK, b (k × 32); the first `lanes` of the 32.
template <int Rows, int ARow, int AK, int TileLanes = kTileLanes>
[[gnu::always_inline]] inline void multiply_tile(const float* a, const float* b, int k, float* c, bool accumulate,
                                                 int lanes = kPanelLanes) {
    constexpr int vectors = TileLanes / kVectorWidth;
    for (int lane = 0; lane < lanes; lane += TileLanes) {
        F sum[Rows][vectors];
#pragma GCC unroll 24
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) {
                sum[r][v] = accumulate ? load(c + r * kPanelLanes + lane + v * kVectorWidth) : F{};
            }
        }
        const float* at_b = b + lane;
        for (int i = 0; i < k; ++i, at_b += kPanelLanes) {
            F row[vectors];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) row[v] = load(at_b + v * kVectorWidth);
#pragma GCC unroll 24
            for (int r = 0; r < Rows; ++r) {
                const F factor = splat(a[r * ARow + i * AK]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) sum[r][v] += factor * row[v];
            }
        }
#pragma GCC unroll 24
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) store(c + r * kPanelLanes + lane + v * kVectorWidth, sum[r][v]);
        }
    }
}

/// The same for any number of rows, kTileRows at a time.
template <int ARow, int AK>
inline void multiply_rows(const float* a, int rows, const float* b, int k, float* c, bool accumulate) {
    const auto step = [&]<int Rows>() __attribute__((always_inline)) {
        for (; rows >= Rows; rows -= Rows, a += Rows * ARow, c += Rows * kPanelLanes) {
            multiply_tile<Rows, ARow, AK>(a, b, k, c, accumulate);
        }
    };
    step.template operator()<kTileRows>();
    step.template operator()<4>();
    step.template operator()<1>();
}

/// The same for a panel of which few lanes hold a token.
template <int ARow, int AK>
inline void multiply_few_lanes(const float* a, int rows, const float* b, int k, float* c, bool accumulate, int lanes) {
    constexpr int tile_rows = kTileRows * kTileLanes / kFewLanes;
    const auto step = [&]<int Rows>() __attribute__((always_inline)) {
        for (; rows >= Rows; rows -= Rows, a += Rows * ARow, c += Rows * kPanelLanes) {
            multiply_tile<Rows, ARow, AK, kFewLanes>(a, b, k, c, accumulate, lanes);
        }
    };
    step.template operator()<tile_rows>();
    step.template operator()<4>();
    step.template operator()<1>();
}

void gemm(const GemmArgs& args) {
    for (int panel = 0; panel < args.panels; ++panel) {
        if (panel == args.panels - 1 && args.last_lanes <= kPanelLanes / 2) {
            multiply_few_lanes<kGemmStride, 1>(args.a, args.rows, args.b + panel * args.b_panel_stride, args.cols,
                                               args.c + panel * args.c_panel_stride, args.accumulate, args.last_lanes);
            break;
        }
        multiply_rows<kGemmStride, 1>(args.a, args.rows, args.b + panel * args.b_panel_stride, args.cols,
                                      args.c + panel * args.c_panel_stride, args.accumulate);
    }
}

}  // namespace
}  // namespace dca::cpu
