// Decode attention: one query per head, split over the keys. Reading the cache once is the cost,
// so loads go straight from global memory to tensor core operands, a tile ahead of their use.
//
// A warp takes tiles of kKeys keys. Products are transposed: S^T = K Q^T with 16 keys as rows and
// up to 8 query heads of one key head as columns, then O^T += V^T P^T. Which lane holds which
// columns of K, and which rows of V^T, is free as long as the other operand agrees, so every lane
// loads consecutive values. In terms of g = lane / 4 and t = lane % 4:
//   K    keys g, g + 8; values kKeyRun t ... of each run of 4 kKeyRun
//   S^T  keys g, g + 8; heads 2t, 2t + 1
//   V    keys 2t, 2t + 1, 2t + 8, 2t + 9; values kValueRun g ... of each run of 8 kValueRun
//   O^T  the same values; heads 2t, 2t + 1
// Each block of threads merges its warps, and the last block of a key head to finish merges the
// splits.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/device/ptx.cuh"

namespace dca::cuda::decode {

struct Params {
    DecodeArgs args;
    float scale_log2;
    float* partial_out;       // (key heads * head groups, splits, kHeads, head_dim)
    float2* partial_softmax;  // (key heads * head groups, splits, kHeads): maximum, sum
    uint32_t* tickets;        // (key heads * head groups)
};

template <int kHeadDim_, class T_, bool kQ8_, int kHeadTiles_>
struct Config {
    using T = T_;  // of the products
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kQ8 = kQ8_;
    static constexpr int kHeadTiles = kHeadTiles_;  // of 8 query heads
    static constexpr int kHeads = 8 * kHeadTiles;
    static constexpr int kWarps = 8;
    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kKeys = kHeadDim > 128 || kHeadTiles > 1 || !kQ8 ? 16 : 32;  // of a warp's tile
    static constexpr int kStages = kHeadDim > 128 || kHeadTiles > 1 ? 1 : 2;          // tiles in flight, as registers allow
    static constexpr int kKeyRun = kQ8 ? 16 : 8;                                      // values of one 16-byte load
    static constexpr int kKeyRuns = (kHeadDim + 4 * kKeyRun - 1) / (4 * kKeyRun);
    static constexpr int kValueRun = kQ8 && kHeadDim > 64 ? 16 : 8;
    static constexpr int kValueRuns = (kHeadDim + 8 * kValueRun - 1) / (8 * kValueRun);
    static constexpr int kQueryStride = 4 * kKeyRun * kKeyRuns + 8;  // padded with zeros; 16 bytes against bank conflicts
    static constexpr uint32_t kLeastTiles = 256 / kKeys;             // of a split, so that short contexts need no merge
};

template <class C>
struct Shared {
    alignas(16) uint16_t queries[3][C::kHeads][C::kQueryStride];  // rotated for each range, as T
    alignas(16) float out[C::kWarps][C::kHeads][C::kHeadDim];
    float2 softmax[C::kWarps][C::kHeads];  // maximum, sum
    uint32_t ticket;
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
    const size_t first_row;  // of this key head
    const int lane = threadIdx.x % 32;
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;

    float o[C::kHeadTiles][C::kValueRuns][C::kValueRun / 2][4] = {};
    float maximum[C::kHeadTiles][2], sum[C::kHeadTiles][2] = {};
    uint2 q[C::kHeadTiles][C::kKeyRuns][C::kKeyRun / 4];

    __device__ __forceinline__ void start() {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h) maximum[h][0] = maximum[h][1] = kNoMaximum;
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
#pragma unroll
        for (int n = 0; n < C::kKeys / 8; ++n) {
            const uint32_t row = tile.key + 8 * n + g;
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run) {
                const int column = (4 * run + t) * C::kKeyRun;
                const bool valid = row < tile.end && (C::kHeadDim % (4 * C::kKeyRun) == 0 || column < C::kHeadDim);
                raw.keys[n][run] = valid ? ptx::load_streaming(address(cache.keys, row, column)) : uint4{};
            }
        }
        if constexpr (C::kQ8) {
            load_scales(raw.key_scales, cache.key_scales, tile);
        }
    }

    __device__ __forceinline__ void load_values(RawTile<C>& raw, const KeyTile& tile) const {
#pragma unroll
        for (int n = 0; n < C::kKeys / 4; ++n) {
            const uint32_t row = tile.key + n / 2 * 8 + 2 * t + n % 2;
#pragma unroll
            for (int run = 0; run < C::kValueRuns; ++run) {
                const int column = (8 * run + g) * C::kValueRun;
                const bool valid = row < tile.end && (C::kHeadDim % (8 * C::kValueRun) == 0 || column < C::kHeadDim);
                if constexpr (C::kValueRun * kElementBytes == 16) {
                    raw.values[n][run] = valid ? ptx::load_streaming(address(cache.values, row, column)) : uint4{};
                } else {
                    const uint2 half = valid ? ptx::load_streaming_8(address(cache.values, row, column)) : uint2{};
                    raw.values[n][run] = {half.x, half.y, 0, 0};
                }
            }
        }
        if constexpr (C::kQ8) {
            load_scales(raw.value_scales, cache.value_scales, tile);
        }
    }

    __device__ __forceinline__ void load_scales(__half (&own)[RawTile<C>::kLaneRows], const void* scales, const KeyTile& tile) const {
#pragma unroll
        for (int n = 0; n < RawTile<C>::kLaneRows; ++n) {
            const uint32_t row = tile.key + 32 * n + lane;
            own[n] = row < tile.end ? static_cast<const __half*>(scales)[first_row + row] : __half(0.0f);
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
                                           const KeyTile& tile, float scale_log2) {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h) {
            float raised[2] = {maximum[h][0], maximum[h][1]}, keep[2];
#pragma unroll
            for (int n = 0; n < C::kKeys / 16; ++n)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    if (tile.key + 16 * n + 8 * (c / 2) + g >= tile.end) s[h][n][c] = -INFINITY;
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

    /// Sums over the lanes that hold the same heads.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int step = 4; step < 32; step *= 2) sum[h][c] += __shfl_xor_sync(~0u, sum[h][c], step);
    }

private:
    __device__ __forceinline__ const uint8_t* address(const void* data, uint32_t row, int column) const {
        return static_cast<const uint8_t*>(data) + ((first_row + row) * C::kHeadDim + column) * kElementBytes;
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

/// Rotates the query heads from `first_head` on for every range from `first` to `last` (walk order:
/// Inter before Intra), and zeroes what pads them.
template <class C>
__device__ __forceinline__ void rotate_queries(Shared<C>& shared, const DecodeArgs& args, uint32_t i, int first_head, int heads,
                                               Range first, Range last) {
    constexpr int kPieces = C::kQueryStride / 8;
    const uint32_t r = i % args.scheme.chunk_size;
    const float factor = args.scheme.logit_factor(i);
    const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
    for (int n = threadIdx.x; n < 3 * C::kHeads * kPieces; n += C::kThreads) {
        const int range = n / (C::kHeads * kPieces), head = n / kPieces % C::kHeads;
        if (range > static_cast<int>(first) || range < static_cast<int>(last)) continue;
        uint16_t* to = shared.queries[range][head];
        if (n % kPieces * 8 >= C::kHeadDim || head >= heads) {
            *reinterpret_cast<uint4*>(to + n % kPieces * 8) = {};
            continue;
        }
        const uint8_t* source = static_cast<const uint8_t*>(args.q) + 2 * (first_head + head) * C::kHeadDim;
        QueryRotation::Loaded loaded;
        rotation.load(loaded, source, n % kPieces, static_cast<Range>(range), r);
        rotation.finish<typename C::T>(loaded, n % kPieces, factor,
                                       [&](int e, uint2 values) { *reinterpret_cast<uint2*>(to + e) = values; });
    }
}

/// Merges parts of an attention: `count` parts of head h have softmax(part, h) = (maximum, sum) and
/// out(part, h, e), four values. Calls result(h, e, values, maximum, sum) with the merged ones.
template <int kThreads, class Softmax, class Out, class Result>
__device__ __forceinline__ void merge(int heads, int head_dim, int count, float scale_log2, Softmax softmax, Out out, Result result) {
    const int quads = head_dim / 4;
    for (int n = threadIdx.x; n < heads * quads; n += kThreads) {
        const int head = n / quads, e = n % quads * 4;
        float maximum = kNoMaximum, sum = 0.0f;
        for (int part = 0; part < count; ++part) maximum = fmaxf(maximum, softmax(part, head).x);
        float4 merged = {};
#pragma unroll 8
        for (int part = 0; part < count; ++part) {
            const float2 own = softmax(part, head);
            const float4 v = out(part, head, e);
            const float weight = ptx::exp2((own.x - maximum) * scale_log2);
            sum += weight * own.y;
            merged.x += weight * v.x, merged.y += weight * v.y, merged.z += weight * v.z, merged.w += weight * v.w;
        }
        result(head, e, merged, maximum, sum);
    }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) decode_kernel(const __grid_constant__ Params params) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>(memory);
    const DecodeArgs& args = params.args;
    const uint32_t length = min(*args.length, args.cache.capacity);
    if (length == 0) return;

    const KeyTiles<C::kKeys> tiles(args.scheme, length);
    const uint32_t per_split = max(ceil_div(tiles.count, gridDim.x), C::kLeastTiles);
    const uint32_t splits = ceil_div(tiles.count, per_split);
    const uint32_t split = blockIdx.x;
    if (split >= splits) return;
    const uint32_t end = min((split + 1) * per_split, tiles.count);
    uint32_t index = split * per_split + threadIdx.x / 32;

    const int group = args.shape.n_heads / args.shape.n_kv_heads;
    const int first_head = blockIdx.y * group + blockIdx.z * C::kHeads;
    const int heads = min(C::kHeads, group - static_cast<int>(blockIdx.z) * C::kHeads);

    Warp<C> warp{args.cache, static_cast<size_t>(blockIdx.y) * args.cache.capacity};
    warp.start();
    RawTile<C> raw[C::kStages];
    KeyTile tile[C::kStages];
#pragma unroll
    for (int stage = 0; stage < C::kStages; ++stage) {
        if (index + stage * C::kWarps >= end) break;
        tile[stage] = tiles.at(index + stage * C::kWarps);
        warp.load_keys(raw[stage], tile[stage]);
        warp.load_values(raw[stage], tile[stage]);
    }
    rotate_queries(shared, args, length - 1, first_head, heads, tiles.at(split * per_split).range, tiles.at(end - 1).range);
    __syncthreads();

    constexpr uint32_t kAhead = C::kStages * C::kWarps;
    int loaded_range = -1;
    while (index < end) {
#pragma unroll
        for (int stage = 0; stage < C::kStages; ++stage, index += C::kWarps) {
            if (index >= end) break;
            const KeyTile current = tile[stage];
            if (loaded_range != static_cast<int>(current.range)) {
                loaded_range = static_cast<int>(current.range);
                warp.load_queries(shared.queries[loaded_range]);
            }
            float s[C::kHeadTiles][C::kKeys / 16][4];
            uint2 p[C::kHeadTiles][C::kKeys / 16];
            warp.multiply_keys(raw[stage], s);
            const bool more = index + kAhead < end;
            if (more) {
                tile[stage] = tiles.at(index + kAhead);
                warp.load_keys(raw[stage], tile[stage]);
            }
            warp.absorb(s, p, current, params.scale_log2);
            warp.multiply_values(raw[stage], p);
            if (more) warp.load_values(raw[stage], tile[stage]);
        }
    }

    warp.finish();
    const int own = threadIdx.x / 32;
#pragma unroll
    for (int h = 0; h < C::kHeadTiles; ++h)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int head = 8 * h + 2 * warp.t + c;
            if (warp.g == 0) shared.softmax[own][head] = {warp.maximum[h][c], warp.sum[h][c]};
#pragma unroll
            for (int run = 0; run < C::kValueRuns; ++run)
#pragma unroll
                for (int m = 0; m < C::kValueRun / 2; ++m) {
                    const int e = (8 * run + warp.g) * C::kValueRun + 2 * m;
                    if (e < C::kHeadDim)
                        *reinterpret_cast<float2*>(&shared.out[own][head][e]) = {warp.o[h][run][m][c], warp.o[h][run][m][2 + c]};
                }
        }
    __syncthreads();

    const auto write = [&](int head, int e, const float4& v, float, float sum) {
        const uint2 packed = {pack(v.x / sum, v.y / sum, args.dtype), pack(v.z / sum, v.w / sum, args.dtype)};
        *reinterpret_cast<uint2*>(static_cast<uint16_t*>(args.out) + (first_head + head) * C::kHeadDim + e) = packed;
    };
    const auto warp_softmax = [&](int part, int head) { return shared.softmax[part][head]; };
    const auto warp_out = [&](int part, int head, int e) { return *reinterpret_cast<const float4*>(&shared.out[part][head][e]); };
    if (splits == 1) {
        merge<C::kThreads>(heads, C::kHeadDim, C::kWarps, params.scale_log2, warp_softmax, warp_out, write);
        return;
    }

    const uint32_t slot = blockIdx.y * gridDim.z + blockIdx.z;
    const size_t first_part = static_cast<size_t>(slot) * gridDim.x;
    const auto part_row = [&](int part, int head) { return (first_part + part) * C::kHeads + head; };
    merge<C::kThreads>(heads, C::kHeadDim, C::kWarps, params.scale_log2, warp_softmax, warp_out,
                       [&](int head, int e, const float4& v, float maximum, float sum) {
                           const size_t row = part_row(split, head);
                           *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
                           if (e == 0) params.partial_softmax[row] = {maximum, sum};
                       });
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) shared.ticket = atomicInc(&params.tickets[slot], splits - 1);  // the last one leaves zero
    __syncthreads();
    if (shared.ticket != splits - 1) return;
    __threadfence();
    merge<C::kThreads>(
        heads, C::kHeadDim, splits, params.scale_log2,
        [&](int part, int head) { return __ldcg(&params.partial_softmax[part_row(part, head)]); },
        [&](int part, int head, int e) {
            return __ldcg(reinterpret_cast<const float4*>(&params.partial_out[part_row(part, head) * C::kHeadDim + e]));
        },
        write);
}

}  // namespace dca::cuda::decode
