// Decode attention over pages that many rows share (DecodeGroup): as decode.cuh, but with up to four times as many queries as a
// warp has columns. Tiles of keys and values come to shared memory once, by asynchronous copies, and there several warps
// multiply them, each with its own columns.
//
// A block's eight warps are `quads` by `streams`: warps of one quad have the same columns, warps of one stream the same tiles,
// which they copy together to a ring of their own and wait for with a barrier of their own. Streams take tiles in turn.
//
// A shared page is full and older than the step: its tiles are asked for before the previous kernel ends.
#pragma once

#include "cuda/attention/decode/decode.cuh"
#include "cuda/device/launch.h"

namespace dca::cuda::decode {

/// C is the Config of one warp, with as many columns as decode_columns() says.
template <class C>
struct GroupConfig {
    static constexpr int kMostQuads = 4, kMostColumns = kMostQuads * C::kHeads;
    static constexpr int kKeys = C::kKeys;  // of a tile
    static constexpr int kElementBytes = C::kQ8 ? 1 : 2, kRowBytes = C::kHeadDim * kElementBytes;
    static constexpr int kPieces = kRowBytes / 16;        // of a row of keys or values
    static constexpr int kSlots = (kPieces + 7) / 8 * 8;  // that a row has room for: pieces trade places among eight
    static constexpr int kScaleBytes = C::kQ8 ? 2 * kKeys * 2 : 0;
    static constexpr int kTileBytes = 2 * kKeys * kSlots * 16 + kScaleBytes;
    static constexpr int kMostStages = 8;
    static_assert(kKeys == 16 && C::kThreads == 32 * C::kWarps);
};

/// What else a block has in shared memory; the rings, later the warps' results, follow it.
template <class C>
struct GroupShared {
    alignas(16) uint16_t queries[3][GroupConfig<C>::kMostColumns][C::kQueryStride];  // rotated for each range, as T
    float2 softmax[C::kWarps][C::kHeads];                                            // maximum, sum
    uint32_t first_split[kMaxDecodeRows / 2 + 1];
};

template <class C>
constexpr size_t group_results_bytes() {
    return size_t{C::kWarps} * C::kHeads * C::kHeadDim * sizeof(float);
}

/// How a block's warps are divided for so many columns, and the room of a stream's ring.
struct Division {
    int quads, streams, stages;

    template <class C>
    static __device__ __forceinline__ Division of(int columns, uint32_t ring_bytes) {
        const int quads = columns <= C::kHeads ? 1 : columns <= 2 * C::kHeads ? 2 : 4;
        const int tiles = static_cast<int>(ring_bytes / GroupConfig<C>::kTileBytes);
        const int streams = min(C::kWarps / quads, tiles / 2);  // two tiles each at least
        return {quads, streams, min(GroupConfig<C>::kMostStages, tiles / streams)};
    }
};

/// A tile in shared memory: rows of keys, of values, Q8's scales.
template <class C>
struct StagedTile {
    using G = GroupConfig<C>;
    uint32_t at;

    /// Where a piece of 16 bytes lies: free of bank conflicts for the eight lanes that read keys (rows g and g + 1, neighbouring
    /// pieces) or values (rows 2t, two pieces) at once.
    static __device__ __forceinline__ uint32_t offset(int row, int piece) {
        return (row * G::kSlots + (piece ^ (row / 2 % 4 * 2 ^ row % 2 * 4))) * 16;
    }
    __device__ __forceinline__ uint32_t keys() const { return at; }
    __device__ __forceinline__ uint32_t values() const { return at + G::kKeys * G::kSlots * 16; }
    __device__ __forceinline__ uint32_t key_scales() const { return at + 2 * G::kKeys * G::kSlots * 16; }
    __device__ __forceinline__ uint32_t value_scales() const { return key_scales() + 2 * G::kKeys; }

    /// Asks for the tile's rows, from `first` of the cache on: one of `count` threads that do so together.
    __device__ __forceinline__ void copy(const LayerCache& cache, size_t first, int thread, int count) const {
        const auto rows = [&](const void* from, uint32_t to) {
            const uint8_t* bytes = static_cast<const uint8_t*>(from) + first * G::kRowBytes;
            for (int n = thread; n < G::kKeys * G::kPieces; n += count)
                ptx::copy_async<16>(to + offset(n / G::kPieces, n % G::kPieces), bytes + n * 16, true);
        };
        rows(cache.keys, keys());
        rows(cache.values, values());
        if constexpr (C::kQ8) {
            if (thread < 4) {
                const void* scales = thread < 2 ? cache.key_scales : cache.value_scales;
                ptx::copy_async<16>(key_scales() + thread * 16, static_cast<const __half*>(scales) + first + thread % 2 * 8, true);
            }
        }
    }

    /// This lane's part, as Warp::load_keys and load_values would have it.
    __device__ __forceinline__ void load_keys(RawTile<C>& raw, int g, int t, int lane) const {
#pragma unroll
        for (int n = 0; n < G::kKeys / 8; ++n) {
#pragma unroll
            for (int run = 0; run < C::kKeyRuns; ++run) {
                const int piece = 4 * run + t;
                const bool valid = C::kHeadDim % (4 * C::kKeyRun) == 0 || piece < G::kPieces;
                raw.keys[n][run] = valid ? ptx::load_shared<uint4>(keys() + offset(8 * n + g, piece)) : uint4{};
            }
        }
        if constexpr (C::kQ8) raw.key_scales[0] = scale(key_scales(), lane);
    }
    __device__ __forceinline__ void load_values(RawTile<C>& raw, int g, int t, int lane) const {
        constexpr int kRunBytes = C::kValueRun * G::kElementBytes;
#pragma unroll
        for (int n = 0; n < G::kKeys / 4; ++n) {
            const int row = n / 2 * 8 + 2 * t + n % 2;
#pragma unroll
            for (int run = 0; run < C::kValueRuns; ++run) {
                const int byte = (8 * run + g) * kRunBytes;
                const bool valid = C::kHeadDim % (8 * C::kValueRun) == 0 || byte < G::kRowBytes;
                const uint32_t from = values() + offset(row, byte / 16) + byte % 16;
                if constexpr (kRunBytes == 16) {
                    raw.values[n][run] = valid ? ptx::load_shared<uint4>(from) : uint4{};
                } else {
                    const uint2 half = valid ? ptx::load_shared<uint2>(from) : uint2{};
                    raw.values[n][run] = {half.x, half.y, 0, 0};
                }
            }
        }
        if constexpr (C::kQ8) raw.value_scales[0] = scale(value_scales(), lane);
    }

private:
    static __device__ __forceinline__ __half scale(uint32_t scales, int lane) {
        return ptx::load_shared<__half>(scales + lane % G::kKeys * 2);
    }
};

/// All but the newest `pending` groups of copies have arrived.
__device__ __forceinline__ void await_copies(int pending) {
    switch (pending) {
        case 0: ptx::copy_wait<0>(); return;
        case 1: ptx::copy_wait<1>(); return;
        case 2: ptx::copy_wait<2>(); return;
        case 3: ptx::copy_wait<3>(); return;
        case 4: ptx::copy_wait<4>(); return;
        case 5: ptx::copy_wait<5>(); return;
        default: ptx::copy_wait<6>(); return;
    }
}

/// Merges a split's warps: a part of each row. A pair is a key head; column n is head n % part_heads of the group's row
/// n / part_heads.
template <class C>
__device__ __forceinline__ void merge_group(const GroupShared<C>& shared, const float* results, const Params& params, const Split& split,
                                            const Division& division) {
    const DecodeGroup& group = params.args.groups[split.item];
    const uint32_t heads = params.part_heads;
    const auto warp_of = [&](int stream, int n) { return stream * division.quads + n / C::kHeads; };
    merge<C::kThreads>(
        group.rows * heads, C::kHeadDim, division.streams, params.scale.scale_log2,
        [&](int stream, int n) { return shared.softmax[warp_of(stream, n)][n % C::kHeads]; },
        [&](int stream, int n, int e) {
            const float* row = results + (warp_of(stream, n) * C::kHeads + n % C::kHeads) * C::kHeadDim;
            return *reinterpret_cast<const float4*>(row + e);
        },
        [&](uint32_t n, int e, const float4& v, float maximum, float sum) {
            const size_t row = params.part(group.row[n / heads], split.pair, split.index, n % heads);
            *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
            if (e == 0) params.partial_softmax[row] = {maximum, sum};
        });
}

/// ring_bytes: for the rings, and at least group_results_bytes().
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) decode_group_kernel(const __grid_constant__ Params params, uint32_t ring_bytes) {
    using G = GroupConfig<C>;
    extern __shared__ __align__(16) uint8_t memory[];
    GroupShared<C>& shared = *reinterpret_cast<GroupShared<C>*>(memory);
    uint8_t* const rings = memory + sizeof(GroupShared<C>);
    const DecodeArgs& args = params.args;
    const int own = threadIdx.x / 32;

    count_splits<C, SharedKeys<C>>(shared.first_split, params);
    const uint32_t count = shared.first_split[args.n_groups] * params.pairs;
    bool awaited = false;
    const auto await = [&] {
        if (awaited) return;
        await_previous();
        awaited = true;
        let_next_start();  // Rows::behind_groups: not before the keys of the step are stored
    };
    for (uint32_t next = blockIdx.x; next < count; next += gridDim.x) {
        const Split split = find_split<C, SharedKeys<C>>(shared.first_split, params, next);
        const DecodeGroup& group = args.groups[split.item];
        const int columns = static_cast<int>(group.rows * params.part_heads);
        const Division division = Division::of<C>(columns, ring_bytes);
        const int quad = own % division.quads, stream = own / division.quads;
        const bool works = stream < division.streams;

        const typename C::Tiles tiles(args.scheme, length_of(args, group.row[0]));
        const HeadRows rows{args.page_tables + of_row(args.rows[group.row[0]].first_page), static_cast<uint32_t>(args.shape.n_kv_heads),
                            split.pair};
        const uint32_t ring = ptx::shared_address(rings) + stream * division.stages * G::kTileBytes;
        const int peers = 32 * division.quads;  // threads of a stream
        uint32_t ahead = split.begin + stream;  // tile that is copied next
        int ahead_stage = 0;
        const auto copy_next = [&] {
            if (works && ahead < split.end)
                StagedTile<C>{ring + ahead_stage * G::kTileBytes}.copy(args.cache, rows.at(tiles.at(ahead).key),
                                                                       quad * 32 + threadIdx.x % 32, peers);
            ptx::copy_commit();
            ahead += division.streams;
            if (++ahead_stage == division.stages) ahead_stage = 0;
        };
        for (int n = 0; n + 1 < division.stages; ++n) copy_next();
        await();

        rotate_queries<C>(
            shared.queries, args, columns, tiles.at(split.begin).range, tiles.at(split.end - 1).range,
            [&](uint32_t n) {
                const uint32_t row = group.row[n / params.part_heads];
                return Column{row, split.pair * params.part_heads + n % params.part_heads, length_of(args, row) - 1};
            },
            [] {});
        if constexpr (C::kCodes) {
            __syncthreads();
            turn_queries<C>(shared.queries, static_cast<int>(columns), tiles.at(split.begin).range, tiles.at(split.end - 1).range);
        }
        __syncthreads();

        Warp<C> warp{args.cache, rows};
        warp.start();
        int loaded_range = -1, stage = 0;
        if (works) {
            for (uint32_t index = split.begin + stream; index < split.end; index += division.streams) {
                await_copies(division.stages - 2);
                ptx::named_sync(1 + stream, peers);  // everyone's copies have arrived, and the stage that is filled next is free
                copy_next();
                const KeyTile keys = tiles.at(index);
                if (loaded_range != static_cast<int>(keys.range)) {
                    loaded_range = static_cast<int>(keys.range);
                    warp.load_queries(
                        reinterpret_cast<const uint16_t (&)[C::kHeads][C::kQueryStride]>(shared.queries[loaded_range][quad * C::kHeads]));
                }
                const StagedTile<C> tile{ring + stage * G::kTileBytes};
                if (++stage == division.stages) stage = 0;
                RawTile<C> raw;
                float s[C::kHeadTiles][C::kKeys / 16][4];
                uint2 p[C::kHeadTiles][C::kKeys / 16];
                tile.load_keys(raw, warp.g, warp.t, warp.lane);
                warp.multiply_keys(raw, s);
                tile.load_values(raw, warp.g, warp.t, warp.lane);
                warp.absorb(s, p, keys, params.scale);
                warp.multiply_values(raw, p);
            }
        }
        __syncthreads();  // the rings are free
        float* const results = reinterpret_cast<float*>(rings);
        if (works) warp.finish(shared.softmax[own], reinterpret_cast<float (*)[C::kHeadDim]>(results + own * C::kHeads * C::kHeadDim));
        __syncthreads();
        merge_group<C>(shared, results, params, split, division);
        __syncthreads();  // all is read that the next split writes
    }
    await();  // who waits for this kernel waits for all before it
}

}  // namespace dca::cuda::decode
