// Decode attention: one query per row and head, split over the keys. Reading the cache once is the cost,
// so loads go straight from global memory to tensor core operands, a tile ahead of their use (decode_warp.cuh).
//
// Blocks of threads persist and take the splits of all rows in turn. A block merges its warps while the
// first tiles of its next split are on their way; the last block to finish with a row's key head merges
// its splits.
#pragma once

#include "cuda/attention/decode_splits.cuh"
#include "cuda/attention/decode_warp.cuh"
#include "cuda/attention/query_rotation.cuh"

namespace dca::cuda::decode {

template <class C>
struct Shared {
    alignas(16) uint16_t queries[3][C::kHeads][C::kQueryStride];  // rotated for each range, as T
    alignas(16) float out[C::kWarps][C::kHeads][C::kHeadDim];
    float2 softmax[C::kWarps][C::kHeads];  // maximum, sum
    uint32_t ticket;
    Split split;                               // under way
    uint32_t first_split[kMaxDecodeRows + 1];  // splits of a pair's rows before each row
};

/// Rotates query heads of one row, its token at index i, for every range from `first` to `last` (walk order: Inter
/// before Intra), and zeroes what pads them.
template <class C>
__device__ __forceinline__ void rotate_queries(Shared<C>& shared, const DecodeArgs& args, uint32_t row, uint32_t i, const HeadGroup& heads,
                                               Range first, Range last) {
    constexpr int kPieces = C::kQueryStride / 8;
    const uint32_t r = i % args.scheme.chunk_size;
    const float factor = args.scheme.logit_factor(i);
    const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
    for (int n = threadIdx.x; n < 3 * C::kHeads * kPieces; n += C::kThreads) {
        const int range = n / (C::kHeads * kPieces), head = n / kPieces % C::kHeads;
        if (range > static_cast<int>(first) || range < static_cast<int>(last)) continue;
        uint16_t* to = shared.queries[range][head];
        if (n % kPieces * 8 >= C::kHeadDim || head >= heads.count) {
            *reinterpret_cast<uint4*>(to + n % kPieces * 8) = {};
            continue;
        }
        const uint8_t* source = static_cast<const uint8_t*>(args.q) + 2 * (row * args.q_stride + (heads.first + head) * C::kHeadDim);
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

/// Merges a split's warps, and after the last split of its row and pair all of those. The next use of what it
/// reads in shared memory wants a barrier.
template <class C>
__device__ __forceinline__ void merge_split(Shared<C>& shared, const Params& params, const Split& split) {
    const HeadGroup heads = HeadGroup::of<C>(params, split.pair);
    const DecodeArgs& args = params.args;
    uint16_t* out = static_cast<uint16_t*>(args.out) + split.row * args.out_stride + heads.first * C::kHeadDim;
    const auto write = [&](int head, int e, const float4& v, float, float sum) {
        const uint2 packed = {pack(v.x / sum, v.y / sum, args.dtype), pack(v.z / sum, v.w / sum, args.dtype)};
        *reinterpret_cast<uint2*>(out + head * C::kHeadDim + e) = packed;
    };
    const auto warp_softmax = [&](int part, int head) { return shared.softmax[part][head]; };
    const auto warp_out = [&](int part, int head, int e) { return *reinterpret_cast<const float4*>(&shared.out[part][head][e]); };
    if (split.splits == 1) {
        merge<C::kThreads>(heads.count, C::kHeadDim, C::kWarps, params.scale_log2, warp_softmax, warp_out, write);
        return;
    }

    const uint32_t slot = split.row * params.pairs + split.pair;
    const size_t first_part = static_cast<size_t>(slot) * params.most_splits;
    const auto part_row = [&](int part, int head) { return (first_part + part) * params.part_heads + head; };
    merge<C::kThreads>(heads.count, C::kHeadDim, C::kWarps, params.scale_log2, warp_softmax, warp_out,
                       [&](int head, int e, const float4& v, float maximum, float sum) {
                           const size_t row = part_row(split.index, head);
                           *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
                           if (e == 0) params.partial_softmax[row] = {maximum, sum};
                       });
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // after the barrier it stands for all threads' writes, and before the next for their reads
        shared.ticket = atomicInc(&params.tickets[slot], split.splits - 1);  // the last one leaves zero
        __threadfence();
    }
    __syncthreads();
    if (shared.ticket == split.splits - 1) {
        merge<C::kThreads>(
            heads.count, C::kHeadDim, split.splits, params.scale_log2,
            [&](int part, int head) { return __ldcg(&params.partial_softmax[part_row(part, head)]); },
            [&](int part, int head, int e) {
                return __ldcg(reinterpret_cast<const float4*>(&params.partial_out[part_row(part, head) * C::kHeadDim + e]));
            },
            write);
    }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) decode_kernel(const __grid_constant__ Params params) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>(memory);
    const DecodeArgs& args = params.args;
    const int own = threadIdx.x / 32;
    constexpr uint32_t kAhead = C::kStages * C::kWarps;

    count_splits<C>(shared.first_split, params);
    const uint32_t count = shared.first_split[args.n_rows] * params.pairs;

    Warp<C> warp{args.cache, {}};
    RawTile<C> raw[C::kStages];
    Split split;
    const auto enter = [&](uint32_t n) {
        split = find_split<C>(shared.first_split, params, n);
        warp.rows = {args.page_tables + args.rows[split.row].first_page, static_cast<uint32_t>(args.shape.n_kv_heads),
                     split.pair / params.groups};
    };
    const auto load_first = [&] {
        const KeyTiles<C::kKeys> tiles(args.scheme, length_of(args, split.row));
#pragma unroll
        for (int stage = 0; stage < C::kStages; ++stage) {
            const uint32_t index = split.begin + own + stage * C::kWarps;
            if (index >= split.end) break;
            const KeyTile keys = tiles.at(index);
            warp.load_keys(raw[stage], keys);
            warp.load_values(raw[stage], keys);
        }
    };

    uint32_t next = blockIdx.x;
    if (next >= count) return;
    enter(next);
    load_first();
    while (true) {
        const uint32_t length = length_of(args, split.row);
        const KeyTiles<C::kKeys> tiles(args.scheme, length);
        rotate_queries(shared, args, split.row, length - 1, HeadGroup::of<C>(params, split.pair), tiles.at(split.begin).range,
                       tiles.at(split.end - 1).range);
        __syncthreads();
        if (threadIdx.x == 0) shared.split = split;  // registers are short in the loop

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
                warp.multiply_keys(raw[stage], s);
                const bool more = index + kAhead < end;
                if (more) warp.load_keys(raw[stage], tiles.at(index + kAhead));
                warp.absorb(s, p, keys, params.scale_log2);
                warp.multiply_values(raw[stage], p);
                if (more) warp.load_values(raw[stage], tiles.at(index + kAhead));
            }
        }
        warp.finish(shared.softmax[own], shared.out[own]);
        __syncthreads();
        const Split current = shared.split;

        // The next split's first loads run during the merge. Not those of the first warp if it will come to a
        // fence, where it would wait for them.
        next += gridDim.x;
        const bool more = next < count;
        const bool late = current.splits > 1 && own == 0;
        if (more) enter(next);
        if (more && !late) load_first();
        merge_split(shared, params, current);
        if (!more) return;
        if (late) load_first();
    }
}

}  // namespace dca::cuda::decode
