// One warp's part of decode attention (decode.cuh), from the cache's bytes to tensor core operands.
//
// A warp takes tiles of kKeys keys. Products are transposed: S^T = K Q^T with 16 keys as rows and
// up to 8 query heads of one key head as columns, then O^T += V^T P^T. Which lane holds which
// columns of K, and which rows of V^T, is free as long as the other operand agrees, so every lane
// loads consecutive values. In terms of g = lane / 4 and t = lane % 4:
//   K    keys g, g + 8; values kKeyRun t ... of each run of 4 kKeyRun
//   S^T  keys g, g + 8; heads 2t, 2t + 1
//   V    keys 2t, 2t + 1, 2t + 8, 2t + 9; values kValueRun g ... of each run of 8 kValueRun
//   O^T  the same values; heads 2t, 2t + 1
#pragma once

#include <type_traits>

#include "core/positions/key_ranges.h"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/attention/traits.cuh"
#include "cuda/device/ptx.cuh"

namespace dca::cuda::decode {

/// In the place of the products' type: f16 products over a Q4 cache (warp_q4.cuh).
struct Q4Codes {};

template <int kHeadDim_, class T_, bool kQ8_, int kHeadTiles_, Variant kVariant_>
struct Config {
    static constexpr bool kQ4 = std::is_same_v<T_, Q4Codes>;
    using T = std::conditional_t<kQ4, __half, T_>;  // of the products
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kQ8 = kQ8_;
    static constexpr bool kCodes = kQ8 || kQ4;  // queries are turned (hadamard.cuh)
    static constexpr Variant kVariant = kVariant_;
    static constexpr bool kWindowed = kVariant != Variant::Plain;
    static constexpr int kHeadTiles = kHeadTiles_;  // of 8 query heads
    static constexpr int kHeads = 8 * kHeadTiles;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kKeys = kHeadDim > 128 || kHeadTiles > 1 || !kCodes ? 16 : 32;  // of a warp's tile
    static constexpr int kStages = kHeadDim > 128 || kHeadTiles > 1 ? 1 : 2;             // tiles in flight, as registers allow
    // Features of a plane of values, one a byte of a row: Q4's bytes hold two planes.
    static constexpr int kPlanes = kQ4 ? 2 : 1, kPlane = kHeadDim / kPlanes;
    static constexpr int kKeyRun = kQ8 || (kQ4 && kHeadDim > 64) ? 16 : 8;  // values of one load of 16 bytes, or 8 of Q4
    static constexpr int kKeyRuns = kPlanes * ((kPlane + 4 * kKeyRun - 1) / (4 * kKeyRun));
    static constexpr int kValueRun = kQ4 ? (kHeadDim > 128 ? 16 : kHeadDim > 64 ? 8 : 4) : kQ8 && kHeadDim > 64 ? 16 : 8;
    static constexpr int kValueRuns = kPlanes * ((kPlane + 8 * kValueRun - 1) / (8 * kValueRun));
    // Padded with zeros; 16 bytes against bank conflicts.
    static constexpr int kQueryStride = (kQ4 ? kHeadDim : 4 * kKeyRun * kKeyRuns) + 8;
    static_assert(kPageTokens % kKeys == 0, "a tile lies in one page");
    using Tiles = KeyTiles<kKeys, kWindowed>;

    /// The feature of value `of` of a lane's run, kHeadDim or more where there is none.
    static __device__ __forceinline__ int value_feature(int run, int g, int of) {
        constexpr int kRuns = kValueRuns / kPlanes;
        const int within = (8 * (run % kRuns) + g) * kValueRun + of;
        return within < kPlane ? run / kRuns * kPlane + within : kHeadDim;
    }
};

/// One tile's bytes as they came from the cache.
template <class C>
struct RawTile {
    uint4 keys[C::kKeys / 8][C::kKeyRuns];      // rows g, g + 8, ...
    uint4 values[C::kKeys / 4][C::kValueRuns];  // rows 2t, 2t + 1, 2t + 8, 2t + 9, ...; half used where kValueRun is 8 bytes
    static constexpr int kLaneRows = (C::kKeys + 31) / 32;
    __half key_scales[kLaneRows], value_scales[kLaneRows];  // Q8: of rows lane, lane + 32
};

template <class C>
struct Warp {
    using T = typename C::T;
    static constexpr int kElementBytes = C::kQ8 ? 1 : 2;

    const LayerCache& cache;
    HeadRows rows;  // of the item that is loaded
    const int lane = threadIdx.x % 32;
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;

    float o[C::kHeadTiles][C::kValueRuns][C::kValueRun / 2][4];
    float maximum[C::kHeadTiles][2], sum[C::kHeadTiles][2];
    uint2 q[C::kHeadTiles][C::kKeyRuns][C::kKeyRun / 4];

    __device__ __forceinline__ void start() {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h) {
            maximum[h][0] = maximum[h][1] = kNoMaximum;
            sum[h][0] = sum[h][1] = 0.0f;
#pragma unroll
            for (auto& run : o[h])
#pragma unroll
                for (auto& acc : run) acc[0] = acc[1] = acc[2] = acc[3] = 0.0f;
        }
    }

    __device__ __forceinline__ void load_queries(const uint16_t (&queries)[C::kHeads][C::kQueryStride]) {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run)
#pragma unroll
                for (int n = 0; n < C::kKeyRun / 4; ++n)
                    q[h][run][n] = *reinterpret_cast<const uint2*>(&queries[8 * h + g][(4 * run + t) * C::kKeyRun + 4 * n]);
    }

    __device__ __forceinline__ void load_keys(RawTile<C>& raw, const KeyTile& tile) const {
        const size_t first = rows.at(tile.key);
#pragma unroll
        for (int n = 0; n < C::kKeys / 8; ++n) {
            const uint32_t row = 8 * n + g;
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run) {
                const int column = (4 * run + t) * C::kKeyRun;
                const bool valid = tile.holds(tile.key + row) && (C::kHeadDim % (4 * C::kKeyRun) == 0 || column < C::kHeadDim);
                raw.keys[n][run] = valid ? ptx::load_streaming(address(cache.keys, first + row, column)) : uint4{};
            }
        }
        if constexpr (C::kQ8) {
            load_scales(raw.key_scales, static_cast<const __half*>(cache.key_scales) + first, tile);
        }
    }

    __device__ __forceinline__ void load_values(RawTile<C>& raw, const KeyTile& tile) const {
        const size_t first = rows.at(tile.key);
#pragma unroll
        for (int n = 0; n < C::kKeys / 4; ++n) {
            const uint32_t row = n / 2 * 8 + 2 * t + n % 2;
#pragma unroll
            for (int run = 0; run < C::kValueRuns; ++run) {
                const int column = (8 * run + g) * C::kValueRun;
                const bool valid = tile.holds(tile.key + row) && (C::kHeadDim % (8 * C::kValueRun) == 0 || column < C::kHeadDim);
                if constexpr (C::kValueRun * kElementBytes == 16) {
                    raw.values[n][run] = valid ? ptx::load_streaming(address(cache.values, first + row, column)) : uint4{};
                } else {
                    const uint2 half = valid ? ptx::load_streaming_8(address(cache.values, first + row, column)) : uint2{};
                    raw.values[n][run] = {half.x, half.y, 0, 0};
                }
            }
        }
        if constexpr (C::kQ8) {
            load_scales(raw.value_scales, static_cast<const __half*>(cache.value_scales) + first, tile);
        }
    }

    __device__ __forceinline__ void load_scales(__half (&own)[RawTile<C>::kLaneRows], const __half* scales, const KeyTile& tile) const {
#pragma unroll
        for (int n = 0; n < RawTile<C>::kLaneRows; ++n) {
            const uint32_t row = 32 * n + lane;
            own[n] = row < C::kKeys && tile.holds(tile.key + row) ? scales[row] : __half(0.0f);
        }
    }

    /// s = K Q^T: s[h][n] holds keys 16 n + g and + 8, heads 8 h + 2t and the next.
    __device__ __forceinline__ void multiply_keys(const RawTile<C>& raw, float (&s)[C::kHeadTiles][C::kKeys / 16][4]) const {
#pragma unroll
        for (int n = 0; n < C::kKeys / 16; ++n) {
#pragma unroll
            for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
                for (float& logit : s[h][n]) logit = 0.0f;
            const __half own = raw.key_scales[n / 2];
            const int row = 16 * n % 32 + g;
            const ByteScale by_low = scales_of(own, row, row), by_high = scales_of(own, row + 8, row + 8);
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run) {
                uint32_t low[C::kKeyRun / 2], high[C::kKeyRun / 2];  // keys g and g + 8
                pairs_of_row(raw.keys[2 * n][run], by_low, low);
                pairs_of_row(raw.keys[2 * n + 1][run], by_high, high);
#pragma unroll
                for (int k = 0; k < C::kKeyRun / 4; ++k) {
                    const uint32_t a[4] = {low[2 * k], high[2 * k], low[2 * k + 1], high[2 * k + 1]};
#pragma unroll
                    for (int h = 0; h < C::kHeadTiles; ++h) ptx::mma_16x8x16<T>(s[h][n], a, q[h][run][k].x, q[h][run][k].y);
                }
            }
        }
    }

    /// The online softmax step: s becomes weights, as second operands for V^T P^T; o is rescaled.
    __device__ __forceinline__ void absorb(float (&s)[C::kHeadTiles][C::kKeys / 16][4], uint2 (&p)[C::kHeadTiles][C::kKeys / 16],
                                           const KeyTile& tile, const LogitScale& scale) {
        const float scale_log2 = scale.scale_log2;
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h) {
            if constexpr (C::kVariant == Variant::Capped) {
#pragma unroll
                for (auto& logits : s[h]) cap_logits(logits, scale);
            }
            float raised[2] = {maximum[h][0], maximum[h][1]}, keep[2];
#pragma unroll
            for (int n = 0; n < C::kKeys / 16; ++n)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    if (!tile.holds(tile.key + 16 * n + 8 * (c / 2) + g)) s[h][n][c] = -INFINITY;
                    raised[c % 2] = fmaxf(raised[c % 2], s[h][n][c]);
                }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
#pragma unroll
                for (int step = 4; step < 32; step *= 2) raised[c] = fmaxf(raised[c], __shfl_xor_sync(~0u, raised[c], step));
                keep[c] = ptx::exp2((maximum[h][c] - raised[c]) * scale_log2);
                maximum[h][c] = raised[c];
                sum[h][c] *= keep[c];
            }
#pragma unroll
            for (int n = 0; n < C::kKeys / 16; ++n) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    s[h][n][c] = ptx::exp2((s[h][n][c] - raised[c % 2]) * scale_log2);
                    sum[h][c % 2] += s[h][n][c];
                }
                p[h][n] = {ptx::transpose_8x8(pack<T>(s[h][n][0], s[h][n][1])), ptx::transpose_8x8(pack<T>(s[h][n][2], s[h][n][3]))};
            }
#pragma unroll
            for (auto& run : o[h])
#pragma unroll
                for (auto& acc : run) acc[0] *= keep[0], acc[1] *= keep[1], acc[2] *= keep[0], acc[3] *= keep[1];
        }
    }

    /// o += V^T P^T.
    __device__ __forceinline__ void multiply_values(const RawTile<C>& raw, const uint2 (&p)[C::kHeadTiles][C::kKeys / 16]) {
#pragma unroll
        for (int n = 0; n < C::kKeys / 16; ++n) {
            const __half own = raw.value_scales[n / 2];
            const int row = 16 * n % 32 + 2 * t;
            const ByteScale by_low = scales_of(own, row, row + 1), by_high = scales_of(own, row + 8, row + 9);
#pragma unroll
            for (int run = 0; run < C::kValueRuns; ++run) {
                uint32_t low[C::kValueRun], high[C::kValueRun];  // one pair of keys for each value
                pairs_of_rows(raw.values[4 * n][run], raw.values[4 * n + 1][run], by_low, low);
                pairs_of_rows(raw.values[4 * n + 2][run], raw.values[4 * n + 3][run], by_high, high);
#pragma unroll
                for (int m = 0; m < C::kValueRun / 2; ++m) {
                    const uint32_t a[4] = {low[2 * m], low[2 * m + 1], high[2 * m], high[2 * m + 1]};
#pragma unroll
                    for (int h = 0; h < C::kHeadTiles; ++h) ptx::mma_16x8x16<T>(o[h][run][m], a, p[h][n].x, p[h][n].y);
                }
            }
        }
    }

    /// Sums over the lanes that hold the same heads, then puts all into this warp's (kHeads) and (kHeads, kHeadDim).
    __device__ __forceinline__ void finish(float2* to_softmax, float (*to_out)[C::kHeadDim]) {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int step = 4; step < 32; step *= 2) sum[h][c] += __shfl_xor_sync(~0u, sum[h][c], step);
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int head = 8 * h + 2 * t + c;
                if (g == 0) to_softmax[head] = {maximum[h][c], sum[h][c]};
#pragma unroll
                for (int run = 0; run < C::kValueRuns; ++run)
#pragma unroll
                    for (int m = 0; m < C::kValueRun / 2; ++m) {
                        const int e = C::value_feature(run, g, 2 * m);
                        if (e < C::kHeadDim) *reinterpret_cast<float2*>(&to_out[head][e]) = {o[h][run][m][c], o[h][run][m][2 + c]};
                    }
            }
    }

private:
    __device__ __forceinline__ const uint8_t* address(const void* data, size_t row, int column) const {
        return static_cast<const uint8_t*>(data) + (row * C::kHeadDim + column) * kElementBytes;
    }

    /// Q8: the scales of two of the 32 rows whose scales `own` holds, one a lane.
    static __device__ __forceinline__ ByteScale scales_of(__half own, int first, int second) {
        if constexpr (C::kQ8)
            return {__shfl_sync(~0u, own, first), __shfl_sync(~0u, own, second)};
        else
            return {own, own};
    }

    /// One lane's run of a key as pairs of neighbouring values.
    static __device__ __forceinline__ void pairs_of_row(const uint4& row, const ByteScale& by, uint32_t (&pairs)[C::kKeyRun / 2]) {
        const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            if constexpr (C::kQ8)
                dequantize_bytes(words[n], by, pairs[2 * n], pairs[2 * n + 1]);
            else
                pairs[n] = words[n];
        }
    }

    /// The same run of two values' rows as pairs (value of the first row, of the second).
    static __device__ __forceinline__ void pairs_of_rows(const uint4& first, const uint4& second, const ByteScale& by,
                                                         uint32_t (&pairs)[C::kValueRun]) {
        const uint32_t a[4] = {first.x, first.y, first.z, first.w}, b[4] = {second.x, second.y, second.z, second.w};
        if constexpr (C::kQ8) {
#pragma unroll
            for (int n = 0; n < C::kValueRun / 4; ++n) {
                dequantize_bytes(__byte_perm(a[n], b[n], 0x5140), by, pairs[4 * n], pairs[4 * n + 1]);
                dequantize_bytes(__byte_perm(a[n], b[n], 0x7362), by, pairs[4 * n + 2], pairs[4 * n + 3]);
            }
        } else {
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                pairs[2 * n] = __byte_perm(a[n], b[n], 0x5410);
                pairs[2 * n + 1] = __byte_perm(a[n], b[n], 0x7632);
            }
        }
    }
};

}  // namespace dca::cuda::decode
