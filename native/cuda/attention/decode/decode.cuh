// Decode attention: one query per row and head, split over the keys. Reading the cache once is the cost,
// so loads go straight from global memory to tensor core operands, a tile ahead of their use (warp.cuh).
//
// Blocks of threads persist and take the splits of all rows in turn. A block merges its warps while the
// first tiles of its next split are on their way; the last block to finish with a row's key head merges
// its splits.
//
// Where rows share their first pages (DecodeGroup), another kernel goes before: its products have the queries of
// several rows as columns, each rotated at its own position, and what it finds for each row's shared keys are parts
// which the row's other splits are merged with. It is the one of shared.cuh, or on a card whose shared memory does not
// hold that one's tiles this one, with fewer rows.
#pragma once

#include "cuda/attention/decode/splits.cuh"
#include "cuda/attention/decode/warp.cuh"
#include "cuda/attention/decode/warp_q4.cuh"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/kernels.h"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/device/launch.h"

namespace dca::cuda::decode {

template <class C>
struct Shared {
    alignas(16) uint16_t queries[3][C::kHeads][C::kQueryStride];  // rotated for each range, as T
    alignas(16) float out[C::kWarps][C::kHeads][C::kHeadDim];
    float2 softmax[C::kWarps][C::kHeads];  // maximum, sum
    uint32_t ticket;
    Split split;                               // under way
    uint32_t first_split[kMaxDecodeRows + 1];  // splits of a pair's items before each item
};

/// A column of the products: whose query.
struct Column {
    uint32_t row, head;
    uint32_t i;  // the row's token is at this index
};

/// Rotates the queries that are columns for every range from `first` to `last` (walk order: Inter before Intra), and zeroes
/// what pads them. column(n) says what column n is, of those below `count`. Calls between() once the first queries are asked for.
template <class C, int kColumns, class Columns, class Between>
__device__ __forceinline__ void rotate_queries(uint16_t (&queries)[3][kColumns][C::kQueryStride], const DecodeArgs& args, int count,
                                               Range first, Range last, Columns&& column, Between&& between) {
    constexpr int kPieces = C::kQueryStride / 8, kItems = 3 * kColumns * kPieces, kRounds = (kItems + C::kThreads - 1) / C::kThreads;
    const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
    const auto range_of = [](int n) { return n / (kColumns * kPieces); };
    const auto column_of = [](int n) { return n / kPieces % kColumns; };
    const auto written = [&](int n) {
        return n < kItems && range_of(n) <= static_cast<int>(first) && range_of(n) >= static_cast<int>(last);
    };
    const auto padding = [&](int n) { return n % kPieces * 8 >= C::kHeadDim || column_of(n) >= count; };
    constexpr int kTogether = kRounds < 2 ? kRounds : 2;
#pragma unroll 1
    for (int done = 0; done < kRounds; done += kTogether) {
        const int first_item = threadIdx.x + done * C::kThreads;
        QueryRotation::Loaded loaded[kTogether];
#pragma unroll
        for (int round = 0; round < kTogether; ++round) {
            const int n = first_item + round * C::kThreads;
            if (!written(n) || padding(n)) continue;
            const Column at = column(column_of(n));
            const uint8_t* source = static_cast<const uint8_t*>(args.q) + 2 * (at.row * args.q_stride + at.head * C::kHeadDim);
            rotation.load<true>(loaded[round], source, n % kPieces, static_cast<Range>(range_of(n)), at.i % args.scheme.chunk_size);
        }
        if (done == 0) between();
#pragma unroll
        for (int round = 0; round < kTogether; ++round) {
            const int n = first_item + round * C::kThreads;
            if (!written(n)) continue;
            uint16_t* to = queries[range_of(n)][column_of(n)];
            if (padding(n)) {
                *reinterpret_cast<uint4*>(to + n % kPieces * 8) = {};
                continue;
            }
            rotation.finish<typename C::T>(loaded[round], n % kPieces, args.scheme.logit_factor(column(column_of(n)).i),
                                           [&](int e, uint2 values) { *reinterpret_cast<uint2*>(to + e) = values; });
        }
    }
}

/// Turns the first `count` columns that rotate_queries has written, after a barrier.
template <class C, int kColumns>
__device__ __forceinline__ void turn_queries(uint16_t (&queries)[3][kColumns][C::kQueryStride], int count, Range first, Range last) {
    for (int n = threadIdx.x / 32; n < 3 * kColumns; n += C::kWarps) {
        const int range = n / kColumns, own = n % kColumns;
        if (range > static_cast<int>(first) || range < static_cast<int>(last) || own >= count) continue;
        uint16_t* row = queries[range][own];
        turn_row<typename C::T, C::kHeadDim>([&](int e) { return reinterpret_cast<uint32_t*>(row + e); });
    }
}

/// Merges parts of an attention: `count` parts of head h have softmax(part, h) = (maximum, sum) and
/// out(part, h, e), four values. Calls result(h, e, values, maximum, sum) with the merged ones. Some parts are read at a time, so
/// that they take one latency.
template <int kThreads, class Softmax, class Out, class Result>
__device__ __forceinline__ void merge(int heads, int head_dim, int count, float scale_log2, Softmax softmax, Out out, Result result) {
    constexpr int kTogether = 8;
    const int quads = head_dim / 4;
    for (int n = threadIdx.x; n < heads * quads; n += kThreads) {
        const int head = n / quads, e = n % quads * 4;
        float maximum = kNoMaximum, sum = 0.0f;
        float4 merged = {};
#pragma unroll 1
        for (int first = 0; first < count; first += kTogether) {
            float2 own[kTogether];
            float4 v[kTogether];
            float raised = maximum;
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
                const bool there = first + k < count;
                own[k] = there ? softmax(first + k, head) : float2{kNoMaximum, 0.0f};
                v[k] = there ? out(first + k, head, e) : float4{};
            }
#pragma unroll
            for (const float2& part : own) raised = fmaxf(raised, part.x);
            const float keep = ptx::exp2((maximum - raised) * scale_log2);
            maximum = raised;
            sum *= keep;
            merged.x *= keep, merged.y *= keep, merged.z *= keep, merged.w *= keep;
#pragma unroll
            for (int k = 0; k < kTogether; ++k) {
                const float weight = ptx::exp2((own[k].x - maximum) * scale_log2);
                sum += weight * own[k].y;
                merged.x += weight * v[k].x, merged.y += weight * v[k].y, merged.z += weight * v[k].z, merged.w += weight * v[k].w;
            }
        }
        result(head, e, merged, maximum, sum);
    }
}

/// OwnKeys with what the kernel does for them.
template <class C>
struct Rows : OwnKeys<C> {
    static constexpr bool kGroups = false;

    /// Whether the kernel before is that of the groups. It lets this one start once it has itself awaited the kernel that stores
    /// keys, so that only its parts are still to be waited for.
    static __device__ __forceinline__ bool behind_groups(const DecodeArgs& args) { return args.n_groups != 0; }

    template <class Between>
    static __device__ __forceinline__ void rotate(Shared<C>& shared, const Params& params, const Split& split, uint32_t length, Range first,
                                                  Range last, Between&& between) {
        const HeadGroup heads = HeadGroup::of<C>(params, split.pair);
        rotate_queries<C>(
            shared.queries, params.args, heads.count, first, last,
            [&](int n) { return Column{split.item, static_cast<uint32_t>(heads.first + n), length - 1}; }, between);
    }

    /// Of the products.
    static __device__ __forceinline__ int columns(const Params& params, const Split& split) {
        return HeadGroup::of<C>(params, split.pair).count;
    }

    /// How many parts of the row its group has found.
    static __device__ __forceinline__ uint32_t parts_before(const Params& params, const Split& split) {
        const uint32_t tokens = OwnKeys<C>::shared(params.args, split.item);
        return tokens == 0 ? 0 : SharedParts(params, tokens).count;
    }

    /// Whether merge() comes to a fence.
    static __device__ __forceinline__ bool fences(const Split& split) { return split.splits > 1; }

    /// Merges a split's warps, and after the last split of its row and pair all parts of those. The next use of what it
    /// reads in shared memory wants a barrier.
    static __device__ __forceinline__ void merge_split(Shared<C>& shared, const Params& params, const Split& split) {
        const HeadGroup heads = HeadGroup::of<C>(params, split.pair);
        const DecodeArgs& args = params.args;
        uint16_t* out = static_cast<uint16_t*>(args.out) + split.item * args.out_stride + heads.first * C::kHeadDim;
        const auto write = [&](int head, int e, float4 v, [[maybe_unused]] float maximum, float sum) {
            if constexpr (C::kVariant != Variant::Plain)
                sum += sink_share(args.traits, heads.first + head, maximum, params.scale.scale_log2);
            if constexpr (C::kCodes && decode_turns_back(C::kHeadDim)) turn_quads<C::kHeadDim>(v);
            const uint2 packed = {pack(v.x / sum, v.y / sum, args.dtype), pack(v.z / sum, v.w / sum, args.dtype)};
            *reinterpret_cast<uint2*>(out + head * C::kHeadDim + e) = packed;
        };
        const auto warp_softmax = [&](int part, int head) { return shared.softmax[part][head]; };
        const auto warp_out = [&](int part, int head, int e) { return *reinterpret_cast<const float4*>(&shared.out[part][head][e]); };
        const uint32_t before = parts_before(params, split);
        const auto part_row = [&](int part, int head) { return params.part(split.item, split.pair, part, head); };
        const auto part_softmax = [&](int part, int head) { return __ldcg(&params.partial_softmax[part_row(part, head)]); };
        const auto part_out = [&](int part, int head, int e) {
            return __ldcg(reinterpret_cast<const float4*>(&params.partial_out[part_row(part, head) * C::kHeadDim + e]));
        };
        if (split.splits == 1 && before == 0) {
            merge<C::kThreads>(heads.count, C::kHeadDim, C::kWarps, params.scale.scale_log2, warp_softmax, warp_out, write);
            return;
        }
        if (split.splits == 1) {
            merge<C::kThreads>(
                heads.count, C::kHeadDim, C::kWarps + before, params.scale.scale_log2,
                [&](int part, int head) { return part < C::kWarps ? warp_softmax(part, head) : part_softmax(part - C::kWarps, head); },
                [&](int part, int head, int e) { return part < C::kWarps ? warp_out(part, head, e) : part_out(part - C::kWarps, head, e); },
                write);
            return;
        }

        merge<C::kThreads>(heads.count, C::kHeadDim, C::kWarps, params.scale.scale_log2, warp_softmax, warp_out,
                           [&](int head, int e, const float4& v, float maximum, float sum) {
                               const size_t row = part_row(before + split.index, head);
                               *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
                               if (e == 0) params.partial_softmax[row] = {maximum, sum};
                           });
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t* ticket = &params.tickets[split.item * params.pairs + split.pair];
            __threadfence();  // after the barrier it stands for all threads' writes, and before the next for their reads
            shared.ticket = atomicInc(ticket, split.splits - 1);  // the last one leaves zero
            __threadfence();
        }
        __syncthreads();
        if (shared.ticket == split.splits - 1)
            merge<C::kThreads>(heads.count, C::kHeadDim, before + split.splits, params.scale.scale_log2, part_softmax, part_out, write);
    }
};

/// SharedKeys with what the kernel does for them. A pair is a key head; column n is head n % part_heads of the group's row
/// n / part_heads.
template <class C>
struct Groups : SharedKeys<C> {
    static constexpr bool kGroups = true;
    static __device__ __forceinline__ bool behind_groups(const DecodeArgs&) { return false; }

    template <class Between>
    static __device__ __forceinline__ void rotate(Shared<C>& shared, const Params& params, const Split& split, uint32_t, Range first,
                                                  Range last, Between&& between) {
        const DecodeArgs& args = params.args;
        const DecodeGroup& group = args.groups[split.item];
        const uint32_t heads = params.part_heads;
        rotate_queries<C>(
            shared.queries, args, group.rows * heads, first, last,
            [&](uint32_t n) {
                const uint32_t row = group.row[n / heads];
                return Column{row, split.pair * heads + n % heads, length_of(args, row) - 1};
            },
            between);
    }

    static __device__ __forceinline__ int columns(const Params& params, const Split& split) {
        return static_cast<int>(params.args.groups[split.item].rows * params.part_heads);
    }

    static __device__ __forceinline__ bool fences(const Split&) { return false; }

    /// Merges a split's warps: a part of each row.
    static __device__ __forceinline__ void merge_split(Shared<C>& shared, const Params& params, const Split& split) {
        const DecodeGroup& group = params.args.groups[split.item];
        const uint32_t heads = params.part_heads;
        merge<C::kThreads>(
            group.rows * heads, C::kHeadDim, C::kWarps, params.scale.scale_log2, [&](int part, int n) { return shared.softmax[part][n]; },
            [&](int part, int n, int e) { return *reinterpret_cast<const float4*>(&shared.out[part][n][e]); },
            [&](uint32_t n, int e, const float4& v, float maximum, float sum) {
                const size_t row = params.part(group.row[n / heads], split.pair, split.index, n % heads);
                *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
                if (e == 0) params.partial_softmax[row] = {maximum, sum};
            });
    }
};

/// Items is Rows or Groups.
template <class C, class Items>
__global__ void __launch_bounds__(C::kThreads, 1) decode_kernel(const __grid_constant__ Params params) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>(memory);
    const DecodeArgs& args = params.args;
    const int own = threadIdx.x / 32;
    constexpr uint32_t kAhead = C::kStages * C::kWarps;
    if constexpr (!Items::kGroups) let_next_start();
    // The step's input is there: of one row it is written by a kernel of the step, but store.cu lets this one start once all kernels
    // before it have ended.
    const bool early = args.n_rows > 1 || args.after_store;
    bool awaited = !early;
    const auto await = [&] {
        if (awaited) return;
        await_previous();
        awaited = true;
        if constexpr (Items::kGroups) let_next_start();
    };
    if (!early) await_previous();

    count_splits<C, Items>(shared.first_split, params);
    const uint32_t count = shared.first_split[Items::count(args)] * params.pairs;

    using Tile = std::conditional_t<C::kQ4, Q4Tile<C>, RawTile<C>>;
    std::conditional_t<C::kQ4, Q4Warp<C>, Warp<C>> warp{args.cache, {}};
    Tile raw[C::kStages];
    Split split;
    const auto enter = [&](uint32_t n) {
        split = find_split<C, Items>(shared.first_split, params, n);
        warp.rows = {args.page_tables + of_row(args.rows[Items::row(args, split.item)].first_page),
                     static_cast<uint32_t>(args.shape.n_kv_heads), split.pair / params.groups};
    };
    int asked = 0;  // stages of the split's first tiles
    const auto load_first = [&](int stages) {
        const typename C::Tiles tiles(args.scheme, length_of(args, Items::row(args, split.item)), args.traits.window);
#pragma unroll
        for (int stage = 0; stage < C::kStages; ++stage) {
            const uint32_t index = split.begin + own + stage * C::kWarps;
            if (stage < asked || stage >= stages || index >= split.end) continue;
            const KeyTile keys = tiles.at(index);
            warp.load_keys(raw[stage], keys);
            warp.load_values(raw[stage], keys);
        }
        asked = stages;
    };
    uint32_t next = blockIdx.x;
    if (next >= count) {
        await();  // who waits for this kernel waits for all before it
        return;
    }
    enter(next);
    if (early && !Items::behind_groups(args)) {
        // Pages that no row of the step is written to are there, too, all of the cache lines that they are in. One tile a warp:
        // what the kernel before still has to read, and then the queries, wait for all that is asked for here.
        const uint32_t length = length_of(args, Items::row(args, split.item));
        const typename C::Tiles tiles(args.scheme, length, args.traits.window);
        const uint32_t first_written = (max(length, kMostGuessedRows) - kMostGuessedRows) / kPageTokens;
        if (tiles.at(min(split.begin + C::kWarps, split.end) - 1).key / kPageTokens < first_written) load_first(1);
        await();
    }
    while (true) {
        const uint32_t length = length_of(args, Items::row(args, split.item));
        const typename C::Tiles tiles(args.scheme, length, args.traits.window);
        Items::rotate(shared, params, split, length, tiles.at(split.begin).range, tiles.at(split.end - 1).range,
                      [&] { load_first(C::kStages); });
        if constexpr (C::kCodes) {
            __syncthreads();
            turn_queries<C>(shared.queries, Items::columns(params, split), tiles.at(split.begin).range, tiles.at(split.end - 1).range);
        }
        __syncthreads();
        if (threadIdx.x == 0) shared.split = split;  // registers are short in the loop
        [[maybe_unused]] const uint32_t fresh = C::kQ4 ? of_row(args.rows[Items::row(args, split.item)].fresh_page) * kPageTokens : 0;

        warp.start();
        int loaded_range = -1;
        uint32_t index = split.begin + own;
        const uint32_t end = split.end;
        while (index < end) {
#pragma unroll
            for (int stage = 0; stage < C::kStages; ++stage, index += C::kWarps) {
                if (index >= end) break;
                const KeyTile keys = tiles.at(index);
                if (loaded_range != static_cast<int>(keys.range)) {
                    loaded_range = static_cast<int>(keys.range);
                    warp.load_queries(shared.queries[loaded_range]);
                }
                float s[C::kHeadTiles][C::kKeys / 16][4];
                uint2 p[C::kHeadTiles][C::kKeys / 16];
                if constexpr (C::kQ4)
                    warp.multiply_keys(raw[stage], s, keys, fresh);
                else
                    warp.multiply_keys(raw[stage], s);
                const bool more = index + kAhead < end;
                if (more) warp.load_keys(raw[stage], tiles.at(index + kAhead));
                warp.absorb(s, p, keys, params.scale);
                if constexpr (C::kQ4)
                    warp.multiply_values(raw[stage], p, keys, fresh);
                else
                    warp.multiply_values(raw[stage], p);
                if (more) warp.load_values(raw[stage], tiles.at(index + kAhead));
            }
        }

        // The next split's first loads run while the other warps end theirs, and during the merge. Not those of the first warp
        // if it will come to a fence, where it would wait for them.
        next += gridDim.x;
        const bool more = next < count;
        bool late = false;
        if (own == 0) {
            __syncwarp();
            late = Items::fences(shared.split);
        }
        asked = 0;
        if (more) enter(next);
        if (more && !late) load_first(C::kStages);
        warp.finish(shared.softmax[own], shared.out[own]);
        __syncthreads();
        const Split current = shared.split;
        await();
        Items::merge_split(shared, params, current);
        if (!more) return;
    }
}

}  // namespace dca::cuda::decode
