// Decode attention over pages that many rows share (DecodeGroup), on Hopper: the queries of a group are the 64 rows of wgmma's
// left operand, whatever their number, and a tile of keys and values its right ones.
//
// One thread has the copy engine fill a ring of tiles, two warpgroups take them in turn, each with a softmax and sums of its own,
// which are merged at a split's end. With mma.m16n8k16 (shared.cuh: other cards, 8-bit caches, larger heads) four warps read
// every tile from shared memory, each for its own queries, and a tile's products, one after the other, took longer than its bytes.
//
// A shared page is full and older than the step: its tiles are asked for before the previous kernel ends.
#pragma once

#include "cuda/attention/decode/decode.cuh"
#include "cuda/attention/mask.cuh"
#include "cuda/device/wgmma.cuh"

namespace dca::cuda::decode::sm90 {

template <int kHeadDim_, class T_>
struct Config {
    using T = T_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kQueries = 64;  // at most, of a group's rows and heads: wgmma's rows
    static constexpr int kKeys = 64;     // of a tile
    static constexpr int kConsumers = 2;
    static constexpr int kConsumerThreads = 128 * kConsumers, kThreads = kConsumerThreads + 32;
    // More bytes than a multiprocessor's share of memory brings in a latency. A stage always has tiles of one warpgroup, so that
    // none waits for a round of the ring that is not the next.
    static constexpr int kStages = 4;
    static_assert(kStages % kConsumers == 0);
    static constexpr uint32_t kQueryBytes = kQueries * kHeadDim * 2;
    static constexpr uint32_t kHalfBytes = kKeys * kHeadDim * 2, kTileBytes = 2 * kHalfBytes;  // keys, then values
    static constexpr int kResultStride = kHeadDim + 8;                                         // free of bank conflicts
    static_assert(kPageTokens % kKeys == 0, "a tile lies in one page");
    static_assert(kConsumers * kQueries * kResultStride * sizeof(float) <= kStages * kTileBytes);
    using Tiles = KeyTiles<kKeys>;
};

template <class C>
struct Shared {
    alignas(1024) uint8_t queries[3][C::kQueryBytes];       // rotated for each range, as T
    alignas(1024) uint8_t ring[C::kStages][C::kTileBytes];  // later the warpgroups' results
    alignas(8) uint64_t full[C::kStages], empty[C::kStages];
    float2 softmax[C::kConsumers][C::kQueries];  // maximum, sum
    uint32_t first_split[kMaxDecodeRows / 2 + 1];
};

/// The maps of keys and values, (head_dim, kPageTokens, pages and heads) each.
struct Maps {
    CUtensorMap keys, values;
};

/// Where a block is: which tile of all that it has had so far comes next.
template <class C>
struct Position {
    uint32_t stage = 0, phase = 0;

    __device__ __forceinline__ void advance(uint32_t tiles) {
        stage += tiles;
        while (stage >= C::kStages) stage -= C::kStages, phase ^= 1;
    }
};

/// One thread: the tiles of a split.
template <class C>
__device__ __forceinline__ void copy_tiles(Shared<C>& shared, const Maps& maps, const Split& split, const typename C::Tiles& tiles,
                                           const HeadRows& rows, Position<C>& at) {
    using P = Panels<C::kHeadDim>;
    for (uint32_t index = split.begin; index < split.end; ++index, at.advance(1)) {
        const uint32_t key = tiles.at(index).key;
        const auto page = static_cast<int32_t>(rows.page_of(key) * rows.n_kv_heads + rows.head);
        const auto row = static_cast<int32_t>(key % kPageTokens);
        const uint32_t full = ptx::shared_address(&shared.full[at.stage]), to = ptx::shared_address(shared.ring[at.stage]);
        ptx::barrier_wait(ptx::shared_address(&shared.empty[at.stage]), at.phase ^ 1);
        ptx::barrier_arrive_expect(full, C::kTileBytes);
#pragma unroll
        for (int panel = 0; panel < P::kCount; ++panel) {
            const uint32_t there = to + panel * C::kKeys * P::kRowBytes;
            ptx::copy_box(there, &maps.keys, full, panel * P::kWidth, row, page);
            ptx::copy_box(there + C::kHalfBytes, &maps.values, full, panel * P::kWidth, row, page);
        }
    }
}

/// The warpgroups: rotates the group's queries for the ranges from `first` to `last` (walk order: Inter before Intra), and zeroes
/// what pads them to 64.
template <class C>
__device__ __forceinline__ void rotate(Shared<C>& shared, const Params& params, const DecodeGroup& group, uint32_t pair, Range first,
                                       Range last) {
    using P = Panels<C::kHeadDim>;
    constexpr int kPieces = C::kHeadDim / 8, kItems = C::kQueries * kPieces, kBatch = 2;  // loaded together
    const DecodeArgs& args = params.args;
    const uint32_t heads = params.part_heads, count = group.rows * heads;
    const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
    for (int range = static_cast<int>(last); range <= static_cast<int>(first); ++range) {
        uint8_t* const to = shared.queries[range];
        for (int done = threadIdx.x; done < kItems; done += kBatch * C::kConsumerThreads) {
            QueryRotation::Loaded loaded[kBatch];
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int item = done + n * C::kConsumerThreads;
                const uint32_t own = item / kPieces;
                if (item >= kItems || own >= count) continue;
                const uint32_t row = group.row[own / heads], head = pair * heads + own % heads;
                const uint8_t* from = static_cast<const uint8_t*>(args.q) + 2 * (row * args.q_stride + head * C::kHeadDim);
                const uint32_t i = length_of(args, row) - 1;
                rotation.load<true>(loaded[n], from, item % kPieces, static_cast<Range>(range), i % args.scheme.chunk_size);
            }
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int item = done + n * C::kConsumerThreads, piece = item % kPieces;
                const uint32_t own = item / kPieces;
                if (item >= kItems) continue;
                if (own >= count) {
                    *reinterpret_cast<uint4*>(to + P::offset(C::kQueries, own, piece * 8)) = {};
                    continue;
                }
                const uint32_t i = length_of(args, group.row[own / heads]) - 1;
                rotation.finish<typename C::T>(loaded[n], piece, args.scheme.logit_factor(i), [&](int e, uint2 values) {
                    *reinterpret_cast<uint2*>(to + P::offset(C::kQueries, own, e)) = values;
                });
            }
        }
    }
}

/// One of the warpgroups.
template <class C>
struct Consumer {
    using T = typename C::T;
    using P = Panels<C::kHeadDim>;
    static constexpr int kDepth = 16;  // of one product

    Shared<C>& shared;
    const Params& params;
    const int index = __shfl_sync(~0u, threadIdx.x / 128, 0);  // uniform, and known to be
    const int lane = threadIdx.x % 32;
    const int row = threadIdx.x % 128 / 32 * 16 + lane / 4;  // this thread's queries: this one and that + 8

    /// Issues s = Q K^T.
    __device__ __forceinline__ void multiply_keys(float (&s)[C::kKeys / 2], Range range, uint32_t tile) const {
        const uint64_t q = wgmma::descriptor<C::kHeadDim>(ptx::shared_address(shared.queries[static_cast<int>(range)]), 16);
        const uint64_t k = wgmma::descriptor<C::kHeadDim>(tile, 16);
#pragma unroll
        for (int e = 0; e < C::kHeadDim; e += kDepth) {
            const int panel = e / P::kWidth, column = e % P::kWidth * 2;
            wgmma::Product<C::kKeys, T>::shared(s, wgmma::advance(q, panel * C::kQueries * P::kRowBytes + column),
                                                wgmma::advance(k, panel * C::kKeys * P::kRowBytes + column), e > 0);
        }
    }

    /// Issues o += P V.
    __device__ __forceinline__ void multiply_values(float (&o)[C::kHeadDim / 2], const uint32_t (&p)[C::kKeys / 4], uint32_t tile) const {
        const uint64_t v = wgmma::descriptor<C::kHeadDim>(tile + C::kHalfBytes, C::kKeys * P::kRowBytes);
#pragma unroll
        for (int key = 0; key < C::kKeys; key += kDepth)
            wgmma::Product<C::kHeadDim, T>::template registers<true>(o, p + key / 4, wgmma::advance(v, key * P::kRowBytes), 1);
    }

    /// Every other tile of a split; what it found goes to shared memory, where the ring was.
    __device__ __forceinline__ void run(const Split& split, const typename C::Tiles& tiles, Position<C> at) const {
        OnlineSoftmax softmax;
        float s[C::kKeys / 2], o[C::kHeadDim / 2], keep[2];
        uint32_t p[C::kKeys / 4];
#pragma unroll
        for (float& logit : s) logit = 0.0f;
#pragma unroll
        for (float& sum : o) sum = 0.0f;
        at.advance(index);
        for (uint32_t n = split.begin + index; n < split.end; n += C::kConsumers, at.advance(C::kConsumers)) {
            const KeyTile keys = tiles.at(n);
            const uint32_t tile = ptx::shared_address(shared.ring[at.stage]);
            ptx::barrier_wait(ptx::shared_address(&shared.full[at.stage]), at.phase);
            wgmma::pin(s);
            wgmma::fence();
            multiply_keys(s, keys.range, tile);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(s);
            if (keys.key < keys.begin || keys.key + C::kKeys > keys.end) {
                const int first = static_cast<int>(keys.begin - keys.key) - lane % 4 * 2;
                const int limit = static_cast<int>(keys.end - keys.key) - lane % 4 * 2;
                mask_columns(s, {first, first}, {limit, limit});
            }
            softmax.step(s, params.scale.scale_log2, keep);
            rescale(o, keep);
            to_operands<T>(s, p);
            wgmma::pin(o), wgmma::pin(p);
            wgmma::fence();
            multiply_values(o, p, tile);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(o);
            if (lane == 0) ptx::barrier_arrive(ptx::shared_address(&shared.empty[at.stage]));
        }
        ptx::named_sync(1, C::kConsumerThreads);  // nobody reads the ring any more
        write(softmax, o);
    }

private:
    __device__ __forceinline__ void write(const OnlineSoftmax& softmax, const float (&o)[C::kHeadDim / 2]) const {
        float* const results = reinterpret_cast<float*>(shared.ring) + index * C::kQueries * C::kResultStride;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = softmax.sum[half];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (lane % 4 == 0) shared.softmax[index][row + 8 * half] = {softmax.maximum[half], sum};
#pragma unroll
            for (int j = 0; j < C::kHeadDim / 8; ++j) {
                float* to = results + (row + 8 * half) * C::kResultStride + 8 * j + lane % 4 * 2;
                *reinterpret_cast<float2*>(to) = {o[4 * j + 2 * half], o[4 * j + 2 * half + 1]};
            }
        }
    }
};

/// Merges the warpgroups' results: a part of each row. A pair is a key head; query n is head n % part_heads of the group's row
/// n / part_heads.
template <class C>
__device__ __forceinline__ void merge_results(const Shared<C>& shared, const Params& params, const DecodeGroup& group, const Split& split) {
    const uint32_t heads = params.part_heads;
    const float* const results = reinterpret_cast<const float*>(shared.ring);
    merge<C::kConsumerThreads>(
        group.rows * heads, C::kHeadDim, C::kConsumers, params.scale.scale_log2,
        [&](int consumer, int n) { return shared.softmax[consumer][n]; },
        [&](int consumer, int n, int e) {
            return *reinterpret_cast<const float4*>(results + (consumer * C::kQueries + n) * C::kResultStride + e);
        },
        [&](uint32_t n, int e, const float4& v, float maximum, float sum) {
            const size_t row = params.part(group.row[n / heads], split.pair, split.index, n % heads);
            *reinterpret_cast<float4*>(&params.partial_out[row * C::kHeadDim + e]) = v;
            if (e == 0) params.partial_softmax[row] = {maximum, sum};
        });
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) group_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
    const DecodeArgs& args = params.args;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < C::kStages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&shared.full[stage]), 1);
            ptx::barrier_init(ptx::shared_address(&shared.empty[stage]), 4);  // warps of the one that had the tile
        }
        ptx::barrier_init_fence();
    }
    count_splits<C, SharedKeys<C>>(shared.first_split, params);  // comes to a barrier
    const uint32_t count = shared.first_split[args.n_groups] * params.pairs;
    const bool copies = threadIdx.x >= C::kConsumerThreads;
    bool awaited = false;
    const auto await = [&] {
        if (awaited) return;
        await_previous();
        awaited = true;
        let_next_start();  // Rows::behind_groups: not before the keys of the step are stored
    };
    Position<C> at;
    for (uint32_t next = blockIdx.x; next < count; next += gridDim.x) {
        const Split split = find_split<C, SharedKeys<C>>(shared.first_split, params, next);
        const DecodeGroup& group = args.groups[split.item];
        const typename C::Tiles tiles(args.scheme, length_of(args, group.row[0]));
        const HeadRows rows{args.page_tables + of_row(args.rows[group.row[0]].first_page), static_cast<uint32_t>(args.shape.n_kv_heads),
                            split.pair};
        if (copies) {
            if (threadIdx.x == C::kConsumerThreads) copy_tiles<C>(shared, maps, split, tiles, rows, at);
            __syncwarp();
        } else {
            await();
            rotate<C>(shared, params, group, split.pair, tiles.at(split.begin).range, tiles.at(split.end - 1).range);
            ptx::fence_async_proxy();
            ptx::named_sync(1, C::kConsumerThreads);
            Consumer<C>{shared, params}.run(split, tiles, at);
            ptx::named_sync(1, C::kConsumerThreads);
            merge_results<C>(shared, params, group, split);
            ptx::fence_async_proxy();  // the copy engine writes next where the results were
        }
        if (!copies || threadIdx.x != C::kConsumerThreads) at.advance(split.end - split.begin);
        __syncthreads();
    }
    await();  // who waits for this kernel waits for all before it
#endif
}

}  // namespace dca::cuda::decode::sm90
