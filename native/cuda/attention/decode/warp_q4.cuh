// A warp's part of decode attention over a Q4 cache: as warp.cuh has it, but for the way from a row's bytes to
// operands. A byte holds features d and d + head_dim / 2, so that a lane's run of bytes is a run of features in each of two
// planes; the columns of K and the rows of V^T are counted plane by plane. Codes become f16 in registers:
//   K    bytes j, j + 1 of a word -> (low codes), (high codes): the pairs of neighbours that K's operand wants
//   V    byte j of two rows       -> likewise: the pairs of keys that V^T's operand wants
// Tiles of fresh pages are multiplied twice, the second time their fine codes, which are smaller by 16: by the same code, of which a
// step's kernels, one after the other, fetch a lot.
#pragma once

#include "cuda/attention/decode/warp.cuh"
#include "cuda/attention/q4_cache.cuh"

namespace dca::cuda::decode {

/// Bytes of some rows' keys or values, as one lane holds them.
template <class C>
using Q4Keys = uint32_t[C::kKeys / 8][C::kKeyRuns / 2][C::kKeyRun / 4];  // rows g, g + 8, ...
template <class C>
using Q4Values = uint32_t[C::kKeys / 4][C::kValueRun / 4];  // rows 2t, 2t + 1, 2t + 8, 2t + 9, ...

/// Scale and offset of row `lane` in each plane.
struct Q4Affine {
    __half2 plane[2];
};

template <class C>
struct Q4Tile {
    Q4Keys<C> keys;
    Q4Values<C> values;
    Q4Affine key_affine, value_affine;
    uint2 centre[(C::kHeadDim + 127) / 128];  // features 4 (lane + 32 n) ... of the page's centre
};

template <class C>
struct Q4Warp : Warp<C> {
    using Base = Warp<C>;
    using T = typename C::T;
    static_assert(C::kKeys <= 32, "a lane for each row of a tile");
    static_assert(!C::kQ4 || C::kValueRuns == 2, "one run of values a plane");
    static constexpr int kRowBytes = C::kPlane;
    static constexpr int kKeyRuns = C::kKeyRuns / 2;  // of a plane

    __device__ __forceinline__ void load_queries(const uint16_t (&queries)[C::kHeads][C::kQueryStride]) {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run)
#pragma unroll
                for (int n = 0; n < C::kKeyRun / 4; ++n) {
                    const int within = (4 * (run % kKeyRuns) + this->t) * C::kKeyRun + 4 * n;
                    const uint16_t* from = &queries[8 * h + this->g][run / kKeyRuns * C::kPlane + within];
                    this->q[h][run][n] = within < C::kPlane ? *reinterpret_cast<const uint2*>(from) : uint2{};
                }
    }

    __device__ __forceinline__ void load_keys(Q4Tile<C>& raw, const KeyTile& tile) const {
        const size_t first = this->rows.at(tile.key);
        read_keys(raw.keys, static_cast<const uint8_t*>(this->cache.keys) + first * kRowBytes, tile);
        raw.key_affine = read_affine(this->cache.key_scales, first, tile);
        const __half* centre =
            centre_of(this->cache, first / kPageTokens / this->rows.n_kv_heads, static_cast<int>(this->rows.head), C::kHeadDim);
#pragma unroll
        for (int n = 0; n < (C::kHeadDim + 127) / 128; ++n) {
            const int e = 4 * (this->lane + 32 * n);
            raw.centre[n] = e < C::kHeadDim ? __ldg(reinterpret_cast<const uint2*>(centre + e)) : uint2{};
        }
    }

    __device__ __forceinline__ void load_values(Q4Tile<C>& raw, const KeyTile& tile) const {
        const size_t first = this->rows.at(tile.key);
        read_values(raw.values, static_cast<const uint8_t*>(this->cache.values) + first * kRowBytes, tile);
        raw.value_affine = read_affine(this->cache.value_scales, first, tile);
    }

    /// s = K Q^T. Fine codes are read from the key `fresh` on, where the tile's page has a slot of them, over the first ones.
    __device__ __forceinline__ void multiply_keys(Q4Tile<C>& raw, float (&s)[C::kHeadTiles][C::kKeys / 16][4], const KeyTile& tile,
                                                  uint32_t fresh) const {
        // The centre with every query, the same for all keys.
#pragma unroll
        for (auto& tiles : s) tiles[0][0] = tiles[0][1] = tiles[0][2] = tiles[0][3] = 0.0f;
#pragma unroll
        for (int run = 0; run < C::kKeyRuns; ++run)
#pragma unroll
            for (int w = 0; w < C::kKeyRun / 4; ++w) {
                const int within = (4 * (run % kKeyRuns) + this->t) * C::kKeyRun + 4 * w;
                const int quad = (run / kKeyRuns * C::kPlane + within) / 4;
                uint2 own{};
#pragma unroll
                for (int n = 0; n < (C::kHeadDim + 127) / 128; ++n) {
                    const uint2 of_lane = {__shfl_sync(~0u, raw.centre[n].x, quad % 32), __shfl_sync(~0u, raw.centre[n].y, quad % 32)};
                    if (quad / 32 == n) own = of_lane;
                }
                const uint32_t a[4] = {own.x, own.x, own.y, own.y};
#pragma unroll
                for (int h = 0; h < C::kHeadTiles; ++h) ptx::mma_16x8x16<T>(s[h][0], a, this->q[h][run][w].x, this->q[h][run][w].y);
            }
#pragma unroll
        for (auto& tiles : s)
#pragma unroll
            for (int n = 1; n < C::kKeys / 16; ++n)
#pragma unroll
                for (int c = 0; c < 4; ++c) tiles[n][c] = tiles[0][c];
        const uint8_t* fine = tile.key >= fresh ? fine_rows(this->cache.fine_keys, tile) : nullptr;
#pragma unroll 1
        while (true) {
            add_keys(raw.keys, raw.key_affine, s);
            if (fine == nullptr) return;
            read_keys(raw.keys, fine, tile);
            raw.key_affine = of_fine_codes(raw.key_affine);
            fine = nullptr;
        }
    }

    /// o += V^T P^T, likewise.
    __device__ __forceinline__ void multiply_values(Q4Tile<C>& raw, const uint2 (&p)[C::kHeadTiles][C::kKeys / 16], const KeyTile& tile,
                                                    uint32_t fresh) {
        const uint8_t* fine = tile.key >= fresh ? fine_rows(this->cache.fine_values, tile) : nullptr;
#pragma unroll 1
        while (true) {
            add_values(raw.values, raw.value_affine, p);
            if (fine == nullptr) return;
            read_values(raw.values, fine, tile);
            raw.value_affine = of_fine_codes(raw.value_affine);
            fine = nullptr;
        }
    }

private:
    /// (fine - 8) / 16 steps.
    static __device__ __forceinline__ Q4Affine of_fine_codes(const Q4Affine& affine) {
        const __half2 by = __floats2half2_rn(0.0625f, -0.5f);
        return {{__hmul2(__low2half2(affine.plane[0]), by), __hmul2(__low2half2(affine.plane[1]), by)}};
    }

    __device__ __forceinline__ const uint8_t* fine_rows(const void* fine, const KeyTile& tile) const {
        return fine_row(this->cache, fine, this->rows.at(tile.key), this->rows.n_kv_heads, C::kHeadDim);
    }

    template <int kWords>
    static __device__ __forceinline__ void read_words(uint32_t (&words)[kWords], const uint8_t* from, bool valid) {
        if constexpr (kWords == 4) {
            const uint4 v = valid ? ptx::load_streaming(from) : uint4{};
            words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
        } else if constexpr (kWords == 2) {
            const uint2 v = valid ? ptx::load_streaming_8(from) : uint2{};
            words[0] = v.x, words[1] = v.y;
        } else {
            words[0] = valid ? __ldcs(reinterpret_cast<const uint32_t*>(from)) : 0;
        }
    }

    __device__ __forceinline__ void read_keys(Q4Keys<C>& to, const uint8_t* first, const KeyTile& tile) const {
#pragma unroll
        for (int n = 0; n < C::kKeys / 8; ++n) {
            const uint32_t row = 8 * n + this->g;
#pragma unroll
            for (int run = 0; run < kKeyRuns; ++run) {
                const int at = (4 * run + this->t) * C::kKeyRun;
                read_words(to[n][run], first + row * kRowBytes + at, tile.holds(tile.key + row) && at < kRowBytes);
            }
        }
    }

    __device__ __forceinline__ void read_values(Q4Values<C>& to, const uint8_t* first, const KeyTile& tile) const {
#pragma unroll
        for (int n = 0; n < C::kKeys / 4; ++n) {
            const uint32_t row = n / 2 * 8 + 2 * this->t + n % 2;
            const int at = this->g * C::kValueRun;
            read_words(to[n], first + row * kRowBytes + at, tile.holds(tile.key + row) && at < kRowBytes);
        }
    }

    __device__ __forceinline__ Q4Affine read_affine(const void* of, size_t first, const KeyTile& tile) const {
        const uint32_t row = this->lane;
        uint2 both{};
        if (row < C::kKeys && tile.holds(tile.key + row)) both = static_cast<const uint2*>(of)[first + row];
        return {{*reinterpret_cast<const __half2*>(&both.x), *reinterpret_cast<const __half2*>(&both.y)}};
    }

    static __device__ __forceinline__ uint32_t dequantized(__half2 codes, __half2 scale, __half2 offset) {
        const __half2 value = __hfma2(codes, scale, offset);
        return *reinterpret_cast<const uint32_t*>(&value);
    }

    __device__ __forceinline__ void add_keys(const Q4Keys<C>& keys, const Q4Affine& affine,
                                             float (&s)[C::kHeadTiles][C::kKeys / 16][4]) const {
#pragma unroll
        for (int n = 0; n < C::kKeys / 16; ++n) {
            __half2 scale[2][2], offset[2][2];  // by plane, of keys g and g + 8
#pragma unroll
            for (int plane = 0; plane < 2; ++plane)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const __half2 by = __shfl_sync(~0u, affine.plane[plane], 16 * n + 8 * i + this->g);
                    scale[plane][i] = __low2half2(by), offset[plane][i] = __high2half2(by);
                }
#pragma unroll
            for (int run = 0; run < kKeyRuns; ++run)
#pragma unroll
                for (int w = 0; w < C::kKeyRun / 4; ++w) {
                    uint32_t a[2][4];  // by plane
#pragma unroll
                    for (int i = 0; i < 2; ++i)
#pragma unroll
                        for (int pair = 0; pair < 2; ++pair) {
                            __half2 low, high;
                            codes_of_bytes(__byte_perm(keys[2 * n + i][run][w], 0, pair == 0 ? 0x1100 : 0x3322), low, high);
                            a[0][2 * pair + i] = dequantized(low, scale[0][i], offset[0][i]);
                            a[1][2 * pair + i] = dequantized(high, scale[1][i], offset[1][i]);
                        }
#pragma unroll
                    for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
                        for (int plane = 0; plane < 2; ++plane) {
                            const uint2& q = this->q[h][plane * kKeyRuns + run][w];
                            ptx::mma_16x8x16<T>(s[h][n], a[plane], q.x, q.y);
                        }
                }
        }
    }

    __device__ __forceinline__ void add_values(const Q4Values<C>& values, const Q4Affine& affine,
                                               const uint2 (&p)[C::kHeadTiles][C::kKeys / 16]) {
#pragma unroll
        for (int n = 0; n < C::kKeys / 16; ++n) {
            __half2 scale[2][2], offset[2][2];  // by plane, of keys 2t, 2t + 1 and of 2t + 8, 2t + 9
#pragma unroll
            for (int plane = 0; plane < 2; ++plane)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int row = 16 * n + 8 * i + 2 * this->t;
                    const __half2 first = __shfl_sync(~0u, affine.plane[plane], row);
                    const __half2 second = __shfl_sync(~0u, affine.plane[plane], row + 1);
                    scale[plane][i] = __lows2half2(first, second), offset[plane][i] = __highs2half2(first, second);
                }
#pragma unroll
            for (int w = 0; w < C::kValueRun / 4; ++w)
#pragma unroll
                for (int m = 0; m < 2; ++m) {  // bytes 2 m and 2 m + 1 of the word
                    uint32_t a[2][4];          // by plane
#pragma unroll
                    for (int i = 0; i < 2; ++i)
#pragma unroll
                        for (int odd = 0; odd < 2; ++odd) {
                            const int byte = 2 * m + odd;
                            __half2 low, high;
                            codes_of_bytes(__byte_perm(values[4 * n + 2 * i][w], values[4 * n + 2 * i + 1][w], 0x4400 + 0x1111 * byte), low,
                                           high);
                            a[0][2 * i + odd] = dequantized(low, scale[0][i], offset[0][i]);
                            a[1][2 * i + odd] = dequantized(high, scale[1][i], offset[1][i]);
                        }
#pragma unroll
                    for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
                        for (int plane = 0; plane < 2; ++plane)
                            ptx::mma_16x8x16<T>(this->o[h][plane][2 * w + m], a[plane], p[h][n].x, p[h][n].y);
                }
        }
    }
};

}  // namespace dca::cuda::decode
