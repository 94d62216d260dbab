// Decode attention on Hopper where rows share their first pages (DecodeGroup), or where few rows fill the card: the queries of a
// group's rows, or of one row, are the 64 rows of wgmma's left operand, whatever their number, and a tile of keys and values its
// right ones.
//
// Two warpgroups take tiles in turn, each with a softmax and sums of its own, which are merged at a split's end, and with a ring of
// its own that the copy engine fills: once a tile is used, one thread asks for that which comes into its place. With mma.m16n8k16 (shared.cuh: other cards, 8-bit caches, larger heads) four warps read
// every tile from shared memory, each for its own queries, and a tile's products, one after the other, took longer than its bytes.
//
// A group's splits are those of its shared pages. The keys that each of its rows has alone follow, dealt out to the splits tile by
// tile: such a tile is masked for all other rows, and takes no longer than its bytes either. What all splits find are parts, which
// another kernel merges (combine.cuh).
//
// Pages that the step does not write to are older than it: their tiles are asked for before the previous kernel ends.
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
    // A ninth warp, for the copies, or more registers would leave a multiprocessor none for a block of combine.cuh's.
    static constexpr int kThreads = 128 * kConsumers, kMostRegisters = 192;
    static constexpr int kStages = 2;  // of each ring: together more bytes than a multiprocessor's share of memory brings in a latency
    static constexpr uint32_t kQueryBytes = kQueries * kHeadDim * 2;
    static constexpr uint32_t kHalfBytes = kKeys * kHeadDim * 2, kTileBytes = 2 * kHalfBytes;  // keys, then values
    static_assert(kPageTokens % kKeys == 0, "a tile lies in one page");
    static_assert(kHeadDim % 16 == 0 && kConsumers * kQueries * kHeadDim / 2 * sizeof(float) <= kConsumers * kStages * kTileBytes);
    using Tiles = KeyTiles<kKeys>;
};

template <class C>
struct Shared {
    alignas(1024) uint8_t queries[3][C::kQueryBytes];                      // rotated for each range, as T
    alignas(1024) uint8_t ring[C::kConsumers][C::kStages][C::kTileBytes];  // later what the warpgroups give each other
    alignas(8) uint64_t full[C::kConsumers][C::kStages];
    float2 softmax[C::kConsumers][C::kQueries];  // maximum, sum
    uint32_t first_split[kMaxDecodeRows / 2 + kMaxDecodeRows + 1];
};

/// The maps of keys and values, (head_dim, kPageTokens, pages and heads) each.
struct Maps {
    CUtensorMap keys, values;
};

/// As length_of(): every thread asks for those of many rows, from the first-level cache.
__device__ __forceinline__ uint32_t cached_length(const DecodeArgs& args, uint32_t row) {
    return min(__ldg(&args.rows[row].length), args.cache.pages * kPageTokens);
}

/// Items that are groups of rows, for all keys of these, and behind them the rows, which have splits if they are in no group.
template <class C>
struct AllKeys {
    static __device__ __forceinline__ uint32_t count(const DecodeArgs& args) { return args.n_groups + args.n_rows; }

    static __device__ __forceinline__ uint32_t splits(const Params& params, uint32_t item) {
        const DecodeArgs& args = params.args;
        if (item < args.n_groups) return SharedKeys<C>::splits(params, item);
        const uint32_t row = item - args.n_groups;
        return OwnKeys<C>::shared(args, row) != 0 ? 0 : OwnKeys<C>::splits(params, row);
    }

    static __device__ __forceinline__ void cut(const Params& params, Split& split) {
        if (split.item < params.args.n_groups) return SharedKeys<C>::cut(params, split);
        Split alone = split;
        alone.item -= params.args.n_groups;
        OwnKeys<C>::cut(params, alone);
        split.begin = alone.begin, split.end = alone.end;
    }
};

/// Whose queries a split's are: query n is head n % part_heads of member n / part_heads.
struct Members {
    const DecodeGroup* group;  // null: one row, in no group
    uint32_t first, count;

    __device__ __forceinline__ Members(const DecodeArgs& args, uint32_t item)
        : group(item < args.n_groups ? args.groups + item : nullptr),
          first(group == nullptr ? item - args.n_groups : group->row[0]),
          count(group == nullptr ? 1 : group->rows) {}

    __device__ __forceinline__ uint32_t row(uint32_t member) const { return group == nullptr ? first : group->row[member]; }
};

/// A split's tiles, one after the other: those of its cut, which are for all members, then every so manieth of each member's own.
/// All lanes of a warp together, each of which holds what a member has.
template <class C>
struct TileCursor {
    const Params& params;
    const Split& split;
    const Members& members;
    int member = -1;  // whose tile it is alone; -1: all members'
    uint32_t length;  // of the row whose pages they are
    HeadRows rows;
    uint32_t waiting;  // bits of members with tiles of their own that are still to come

    __device__ __forceinline__ TileCursor(const Params& params_, const Split& split_, const Members& members_)
        : params(params_), split(split_), members(members_), index_(split_.begin), left_(split_.end - split_.begin), apart_(1) {
        const uint32_t lane = threadIdx.x % 32;
        uint32_t own = 0;
        if (members.group != nullptr && lane < members.count) {
            const typename C::Tiles tiles(params.args.scheme, cached_length(params.args, members.row(lane)));
            const uint32_t before = tiles.before(members.group->shared), all = tiles.count - before;
            const uint32_t first = (split.index + split.splits - lane % split.splits) % split.splits;
            own_first_ = before + first;
            own = all <= first ? 0 : (all - first - 1) / split.splits + 1;
        }
        own_count_ = own;
        waiting = __ballot_sync(~0u, own != 0);
        read(members.first);
        if (left_ == 0) enter_next();
    }

    __device__ __forceinline__ bool valid() const { return left_ != 0; }
    __device__ __forceinline__ void skip(int tiles) {
        for (; tiles > 0 && valid(); --tiles) advance();
    }
    __device__ __forceinline__ KeyTile tile() const { return typename C::Tiles(params.args.scheme, length).at(index_); }
    __device__ __forceinline__ void advance() {
        index_ += apart_;
        if (--left_ == 0) enter_next();
    }

    /// The ranges of all tiles, in the order in which they are walked.
    __device__ __forceinline__ Range first_range() const { return tile().range; }
    __device__ __forceinline__ Range last_range() const {
        if (waiting != 0) return Range::Intra;  // the newest tokens are in it
        return typename C::Tiles(params.args.scheme, length).at(split.end - 1).range;
    }

private:
    __device__ __forceinline__ void read(uint32_t row) {
        const DecodeArgs& args = params.args;
        length = cached_length(args, row);
        rows = {args.page_tables + __ldg(&args.rows[row].first_page), static_cast<uint32_t>(args.shape.n_kv_heads), split.pair};
    }
    __device__ __forceinline__ void enter_next() {
        if (waiting == 0) return;
        member = __ffs(static_cast<int>(waiting)) - 1;
        waiting &= waiting - 1;
        index_ = __shfl_sync(~0u, own_first_, member);
        left_ = __shfl_sync(~0u, own_count_, member);
        apart_ = split.splits;
        read(members.row(member));
    }

    uint32_t index_, left_, apart_;
    uint32_t own_first_ = 0, own_count_;  // tiles of the member that has this lane's number
};

/// By how many keys a tile is read before its first one, so that it ends with the newest token's: slots behind that may hold NaN,
/// which a weight of zero does not cancel. What would lie before the page's first row the copy engine fills with zeros.
template <class C>
__device__ __forceinline__ uint32_t keys_back(uint32_t key, uint32_t length) {
    return key + C::kKeys > length ? key + C::kKeys - length : 0;
}

/// One thread: asks for the tile where a cursor is. `await` awaits the previous kernel.
template <class C, class Await>
__device__ __forceinline__ void copy_tile(const Maps& maps, const TileCursor<C>& cursor, uint32_t to, uint32_t full, Await&& await) {
    using P = Panels<C::kHeadDim>;
    const uint32_t key = cursor.tile().key;
    // Of a sequence's newest tokens some are stored by the kernel before.
    if (key / kPageTokens >= (max(cursor.length, kMostGuessedRows) - kMostGuessedRows) / kPageTokens) await();
    const auto page = static_cast<int32_t>(cursor.rows.page_of(key) * cursor.rows.n_kv_heads + cursor.rows.head);
    const auto row = static_cast<int32_t>(key % kPageTokens) - static_cast<int32_t>(keys_back<C>(key, cursor.length));
    ptx::barrier_arrive_expect(full, C::kTileBytes);
#pragma unroll
    for (int panel = 0; panel < P::kCount; ++panel) {
        const uint32_t there = to + panel * C::kKeys * P::kRowBytes;
        ptx::copy_box(there, &maps.keys, full, panel * P::kWidth, row, page);
        ptx::copy_box(there + C::kHalfBytes, &maps.values, full, panel * P::kWidth, row, page);
    }
}

/// Rotates the members' queries for the ranges from `first` to `last` (walk order: Inter before Intra), and zeroes
/// what pads them to 64.
template <class C>
__device__ __forceinline__ void rotate(Shared<C>& shared, const Params& params, const Members& members, uint32_t pair, Range first,
                                       Range last) {
    using P = Panels<C::kHeadDim>;
    constexpr int kPieces = C::kHeadDim / 8, kItems = C::kQueries * kPieces, kBatch = 4;  // loaded together
    const DecodeArgs& args = params.args;
    const uint32_t heads = params.part_heads, count = members.count * heads;
    const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
    for (int range = static_cast<int>(last); range <= static_cast<int>(first); ++range) {
        uint8_t* const to = shared.queries[range];
        for (int done = threadIdx.x; done < kItems; done += kBatch * C::kThreads) {
            QueryRotation::Loaded loaded[kBatch];
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int item = done + n * C::kThreads;
                const uint32_t own = item / kPieces;
                if (item >= kItems || own >= count) continue;
                const uint32_t row = members.row(own / heads), head = pair * heads + own % heads;
                const uint8_t* from = static_cast<const uint8_t*>(args.q) + 2 * (row * args.q_stride + head * C::kHeadDim);
                const uint32_t i = cached_length(args, row) - 1;
                rotation.load<true>(loaded[n], from, item % kPieces, static_cast<Range>(range), i % args.scheme.chunk_size);
            }
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int item = done + n * C::kThreads, piece = item % kPieces;
                const uint32_t own = item / kPieces;
                if (item >= kItems) continue;
                if (own >= count) {
                    *reinterpret_cast<uint4*>(to + P::offset(C::kQueries, own, piece * 8)) = {};
                    continue;
                }
                const uint32_t i = cached_length(args, members.row(own / heads)) - 1;
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

    __device__ __forceinline__ uint32_t stage(uint32_t turn) const { return ptx::shared_address(shared.ring[index][turn % C::kStages]); }
    __device__ __forceinline__ uint32_t full(uint32_t turn) const { return ptx::shared_address(&shared.full[index][turn % C::kStages]); }
    __device__ __forceinline__ bool copies() const { return threadIdx.x % 128 == 0; }

    /// Asks for its first tiles of a split; `ahead` comes to that which is asked for next. `turn` counts its tiles.
    template <class Await>
    __device__ __forceinline__ void begin(const Maps& maps, TileCursor<C>& ahead, uint32_t turn, Await&& await) const {
        ahead.skip(index);
        for (uint32_t n = 0; n < C::kStages && ahead.valid(); ++n, ahead.skip(C::kConsumers)) {
            if (copies()) copy_tile<C>(maps, ahead, stage(turn + n), full(turn + n), await);
            __syncwarp();
        }
    }

    /// Every other tile of a split, which ends as a part of each of its rows.
    template <class Await>
    __device__ __forceinline__ void run(const Maps& maps, TileCursor<C>& cursor, TileCursor<C>& ahead, uint32_t& turn,
                                        Await&& await) const {
        OnlineSoftmax softmax;
        float s[C::kKeys / 2], o[C::kHeadDim / 2], keep[2];
        uint32_t p[C::kKeys / 4];
#pragma unroll
        for (float& logit : s) logit = 0.0f;
#pragma unroll
        for (float& sum : o) sum = 0.0f;
        for (cursor.skip(index); cursor.valid(); cursor.skip(C::kConsumers), ++turn) {
            const KeyTile keys = cursor.tile();
            const uint32_t tile = stage(turn);
            ptx::barrier_wait(full(turn), turn / C::kStages % 2);
            wgmma::pin(s);
            wgmma::fence();
            multiply_keys(s, keys.range, tile);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(s);
            mask(s, keys, keys_back<C>(keys.key, cursor.length), cursor.member);
            softmax.step(s, params.scale.scale_log2, keep);
            rescale(o, keep);
            to_operands<T>(s, p);
            wgmma::pin(o), wgmma::pin(p);
            wgmma::fence();
            multiply_values(o, p, tile);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(o);
            if (!ahead.valid()) continue;
            ptx::named_sync(2 + index, 128);  // nobody reads the tile any more
            if (copies()) copy_tile<C>(maps, ahead, tile, full(turn), await);
            __syncwarp();
            ahead.skip(C::kConsumers);
        }
        write_part(cursor.split, cursor.members, softmax, o);
    }

private:
    /// Hides what is not of the tile, and of a member's own one all queries but that member's.
    __device__ __forceinline__ void mask(float (&s)[C::kKeys / 2], const KeyTile& keys, uint32_t back, int member) const {
        const uint32_t first_key = max(keys.key, keys.begin), end = min(keys.key + C::kKeys, keys.end);
        if (member < 0 && end - first_key == C::kKeys) return;
        const int column = static_cast<int>(back) - static_cast<int>(keys.key) - lane % 4 * 2;
        const int first = static_cast<int>(first_key) + column;
        int limit[2] = {static_cast<int>(end) + column, static_cast<int>(end) + column};
        if (member >= 0) {
            const int heads = static_cast<int>(params.part_heads), own = row - member * heads;
            if (own < 0 || own >= heads) limit[0] = first;
            if (own + 8 < 0 || own + 8 >= heads) limit[1] = first;
        }
        mask_columns(s, {first, first}, limit);
    }

    /// One of two registers. (Of an array's elements the compiler would choose by address, and put the array into memory.)
    static __device__ __forceinline__ float chosen(bool first, float a, float b) {
        float r;
        asm("{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\nselp.f32 %0, %1, %2, p;\n}" : "=f"(r) : "f"(a), "f"(b), "r"(uint32_t{first}));
        return r;
    }

    /// Merges what the warpgroups found: each gives the other the half of its columns that this one does not write.
    __device__ __forceinline__ void write_part(const Split& split, const Members& members, const OnlineSoftmax& softmax,
                                               const float (&o)[C::kHeadDim / 2]) const {
        constexpr int kEights = C::kHeadDim / 16;  // runs of eight columns, of a half
        ptx::named_sync(1, C::kThreads);           // nobody reads the ring any more
        const uint32_t exchange = ptx::shared_address(shared.ring);
        const auto place = [&](int from, int k) { return exchange + ((from * kEights + k) * 128 + threadIdx.x % 128) * 16; };
        float sum[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            sum[half] = softmax.row_sum(half);
            if (lane % 4 == 0) shared.softmax[index][row + 8 * half] = {softmax.maximum[half], sum[half]};
        }
        const auto kept = [&](int k, int c) { return chosen(index == 0, o[4 * k + c], o[4 * (kEights + k) + c]); };
        const auto given = [&](int k, int c) { return chosen(index == 0, o[4 * (kEights + k) + c], o[4 * k + c]); };
#pragma unroll
        for (int k = 0; k < kEights; ++k) {
            const float4 v = {given(k, 0), given(k, 1), given(k, 2), given(k, 3)};
            ptx::store_shared(place(index, k), reinterpret_cast<const uint4&>(v));
        }
        ptx::named_sync(1, C::kThreads);
        const uint32_t heads = params.part_heads, count = members.count * heads;
        float own_weight[2], other_weight[2];
        float* to[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t query = row + 8 * half;
            const float2 other = shared.softmax[1 - index][query];
            const float maximum = fmaxf(softmax.maximum[half], other.x);
            own_weight[half] = ptx::exp2((softmax.maximum[half] - maximum) * params.scale.scale_log2);
            other_weight[half] = ptx::exp2((other.x - maximum) * params.scale.scale_log2);
            to[half] = nullptr;
            if (query >= count) continue;
            const size_t part = params.part(members.row(query / heads), split.pair, split.index, query % heads);
            to[half] = params.partial_out + part * C::kHeadDim + index * 8 * kEights + lane % 4 * 2;
            if (index == 0 && lane % 4 == 0)
                params.partial_softmax[part] = {maximum, own_weight[half] * sum[half] + other_weight[half] * other.y};
        }
#pragma unroll
        for (int k = 0; k < kEights; ++k) {
            const float4 other = ptx::load_shared<float4>(place(1 - index, k));
            if (to[0] != nullptr)
                *reinterpret_cast<float2*>(to[0] + 8 * k) = {own_weight[0] * kept(k, 0) + other_weight[0] * other.x,
                                                             own_weight[0] * kept(k, 1) + other_weight[0] * other.y};
            if (to[1] != nullptr)
                *reinterpret_cast<float2*>(to[1] + 8 * k) = {own_weight[1] * kept(k, 2) + other_weight[1] * other.z,
                                                             own_weight[1] * kept(k, 3) + other_weight[1] * other.w};
        }
    }
};

template <class C>
__global__ void __maxnreg__(C::kMostRegisters) pages_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
    const DecodeArgs& args = params.args;
    let_next_start();
    if (threadIdx.x == 0) {
        for (auto& ring : shared.full)
            for (uint64_t& full : ring) ptx::barrier_init(ptx::shared_address(&full), 1);
        ptx::barrier_init_fence();
    }
    count_splits<C, AllKeys<C>>(shared.first_split, params);  // comes to a barrier
    const uint32_t count = shared.first_split[AllKeys<C>::count(args)] * params.pairs;
    bool awaited = false;
    const auto await = [&] {
        if (awaited) return;
        await_previous();
        awaited = true;
    };
    const Consumer<C> consumer{shared, params};
    uint32_t turn = 0;
    for (uint32_t next = blockIdx.x; next < count; next += gridDim.x) {
        const Split split = find_split<C, AllKeys<C>>(shared.first_split, params, next);
        const Members members(args, split.item);
        TileCursor<C> cursor(params, split, members), ahead = cursor;
        consumer.begin(maps, ahead, turn, await);
        await();
        rotate<C>(shared, params, members, split.pair, cursor.first_range(), cursor.last_range());
        ptx::fence_async_proxy();
        __syncthreads();
        consumer.run(maps, cursor, ahead, turn, await);
        ptx::fence_async_proxy();  // the copy engine writes next where the warpgroups' sums were
        __syncthreads();
    }
    await();  // who waits for this kernel waits for all before it
#endif
}

}  // namespace dca::cuda::decode::sm90
