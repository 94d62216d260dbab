// Prefill attention on Hopper. One producer warp copies tiles with the copy engine; consumer
// warpgroups multiply with wgmma, 64 queries each: while one multiplies, another does its softmax,
// and within a warpgroup the next tile's Q K^T runs during the current softmax (the schedule of
// FlashAttention-3, Shah et al., arXiv 2407.08608). Blocks of threads persist and draw work from a
// counter.
//
// Dual Chunk Attention adds one thing: where the walk over the keys enters another range, each warp
// rotates its 16 queries anew, from the un-rotated copy in shared memory, to where the products read
// them: registers if there is room (3 % faster: shared memory is the busier), else shared memory.
// After the last range the un-rotated copy is free for the next block's queries.
//
// Where few queries meet many keys, a block of queries is the work of several blocks of threads, each for a part of the walk: they
// write what they found undivided, and merge_parts (split.cuh) puts it together.
//
// With lists of pages (sparse prefill) the walk goes over those, the rows of a block are the tokens of a page, and a
// warp masks the pages that others of the block read and its own queries do not; with stated budgets single keys, too.
#pragma once

#include <type_traits>

#include "cuda/attention/epilogue.cuh"
#include "cuda/attention/line_bits.cuh"
#include "cuda/attention/list_walk.cuh"
#include "cuda/attention/mask.cuh"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/prefill/split.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/attention/prefill/split_walk.h"
#include "cuda/attention/traits.cuh"
#include "cuda/attention/work_order.h"
#include "cuda/device/wgmma.cuh"

namespace dca::cuda::sm90 {

struct Params {
    AttentionShape shape;
    Scheme scheme;
    QueryBlocks blocks;
    WorkOrder order;
    uint32_t n_keys;  // tokens whose keys are there
    const float2* cos_sin;
    const uint32_t* page_table;  // null: pages 0, 1, 2, ...
    void* out;
    int64_t out_stride;
    Dtype dtype;  // of queries and output
    AttentionTraits traits;
    LogitScale scale;
    int32_t* next_item;  // counter of items drawn beyond the first of each thread block
    PageLists lists;     // if kListed
    Parts parts;         // if kSplit
    KeyPiece piece;      // if kSplit

    __device__ __forceinline__ uint32_t items() const { return order.count() * parts.own; }
};

template <int kHeadDim_, class T_, Variant kVariant_, bool kSplit_ = false>
struct Config {
    using T = T_;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr Variant kVariant = kVariant_;
    static constexpr bool kSplit = kSplit_;
    static constexpr bool kListed = kVariant == Variant::Listed;
    static constexpr bool kWindowed = windows(kVariant);
    static constexpr int kConsumers = kHeadDim <= 64 && !kListed ? 3 : 2;
    static constexpr int kRows = 64 * kConsumers;
    static constexpr int kKeys = kPageTokens;
    using Walk = std::conditional_t<kListed, ListWalk<kKeys>, std::conditional_t<kSplit, SplitWalk<kKeys>, TileWalk<kKeys, kWindowed>>>;
    static_assert(!kListed || kRows == kPageTokens);
    static_assert(!kSplit || (kVariant == Variant::Plain && kRows == sm90_block_rows(kHeadDim)));
    static constexpr int kStages = 2;
    static constexpr int kThreads = 128 * (kConsumers + 1);
    static constexpr bool kQueriesInRegisters = kConsumers == 2;
    static constexpr bool kTurns = kConsumers > 2;  // at the tensor cores; two find their own rhythm, 2 % faster
    // Warpgroups trade what the block was launched with, which is as much as the card has, rounded down to eights a
    // thread. A consumer that asks for more than the producer gave up waits for ever.
    static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
    static constexpr int kProducerRegisters = kConsumers == 3 ? 32 : 24;
    static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240;
    static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= (1 + kConsumers) * kLaunchRegisters);
    static constexpr uint32_t kQueryBytes = kRows * kHeadDim * 2;
    static constexpr uint32_t kTileBytes = kKeys * kHeadDim * 2;
};

template <class C>
struct Shared {
    alignas(1024) uint8_t keys[C::kStages][C::kTileBytes];
    alignas(1024) uint8_t values[C::kStages][C::kTileBytes];
    alignas(1024) uint8_t rotated[C::kQueryBytes];  // queries; the output on its way out
    alignas(1024) uint8_t queries[C::kQueryBytes];  // (kRows, kHeadDim), un-rotated
    alignas(8) uint64_t keys_full[C::kStages], keys_empty[C::kStages];
    uint64_t values_full[C::kStages], values_empty[C::kStages];
    uint64_t queries_full, queries_empty;
    int32_t item;  // whose queries these are; negative: no more work
};

/// Named barriers: one per warpgroup for its own threads, one for its turn at the tensor cores.
__device__ __forceinline__ uint32_t own_barrier(int consumer) { return 1 + consumer; }
__device__ __forceinline__ uint32_t turn_barrier(int consumer) { return 4 + consumer; }

/// Position in a ring of kStages buffers.
template <int kStages>
struct Ring {
    uint32_t stage = 0, phase = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == kStages) stage = 0, phase ^= 1;
    }
};

/// An item's queries, and the walk over what they read.
template <class C>
struct Task {
    QueryBlock block;
    typename C::Walk walk;

    static __device__ __forceinline__ WorkOrder::Item work(const Params& params, uint32_t item) {
        return params.order.at(C::kSplit ? item / params.parts.own : item);
    }

    static __device__ __forceinline__ Task of(const Params& params, const WorkOrder::Item& work, [[maybe_unused]] uint32_t item) {
        if constexpr (C::kSplit) {
            const QueryBlock block = params.blocks.at(work.block);
            return {block, {params.scheme, block, params.piece, item % params.parts.own, params.parts.own}};
        } else if constexpr (C::kListed) {
            const size_t number = size_t{work.head} * params.lists.n_blocks + work.block;
            const uint4 from = __ldg(reinterpret_cast<const uint4*>(params.lists.blocks + number));
            const ListedBlock listed{from.x, from.y, from.z, from.w};
            return {{listed.first, listed.rows, listed.chunk},
                    {params.scheme, listed, params.lists.pages, static_cast<uint32_t>(number * params.lists.most_pages)}};
        } else {
            const QueryBlock block = params.blocks.at(work.block);
            return {block, {params.scheme, block, params.traits.window}};
        }
    }
};

/// The index of the query in a block's row 0, which with lists may be another block's.
template <class C>
__device__ __forceinline__ uint32_t first_index(const QueryBlock& block) {
    return C::kListed ? block.first / kPageTokens * kPageTokens : block.first;
}

/// How many keys before its first one a tile is loaded from: as many as its page has slots past the last of
/// n_keys. These may hold NaN, which a weight of zero does not cancel; instead the copy engine fills as many rows
/// before the page's first with zeros.
template <class C>
__device__ __forceinline__ uint32_t keys_back(const typename C::Walk& walk, uint32_t n_keys) {
    return walk.key + C::kKeys > n_keys ? walk.key + C::kKeys - n_keys : 0;
}

/// The page of index `page` among (page, head), from its row `row` on; rows outside of it are zeros.
template <class C>
__device__ __forceinline__ void copy_tile(uint32_t to, const CUtensorMap* map, uint32_t barrier, int32_t row, uint32_t page) {
    using P = Panels<C::kHeadDim>;
    ptx::barrier_arrive_expect(barrier, C::kTileBytes);
#pragma unroll
    for (int panel = 0; panel < P::kCount; ++panel)
        ptx::copy_box(to + panel * C::kKeys * P::kRowBytes, map, barrier, panel * P::kWidth, row, page);
}

template <class C>
__device__ __forceinline__ void produce(Shared<C>& shared, const CUtensorMap* q_map, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                        const Params& params) {
    const int group = params.shape.n_heads / params.shape.n_kv_heads;
    Ring<C::kStages> ring;
    uint32_t q_phase = 0;
    uint32_t item = blockIdx.x;
    for (;; q_phase ^= 1) {
        ptx::barrier_wait(ptx::shared_address(&shared.queries_empty), q_phase ^ 1);
        const uint32_t q_full = ptx::shared_address(&shared.queries_full);
        if (item >= params.items()) {
            shared.item = -1;
            ptx::barrier_arrive(q_full);
            return;
        }
        const WorkOrder::Item work = Task<C>::work(params, item);
        auto [block, walk] = Task<C>::of(params, work, item);
        shared.item = item;
        ptx::barrier_arrive_expect(q_full, C::kQueryBytes);
        ptx::copy_box(ptx::shared_address(shared.queries), q_map, q_full, 0, work.head, first_index<C>(block) - params.blocks.start);
        item = gridDim.x + atomicAdd(params.next_item, 1);

        const HeadRows rows{params.page_table, static_cast<uint32_t>(params.shape.n_kv_heads), work.head / group};
        do {
            const uint32_t held = rows.page_of(walk.key) - (C::kSplit ? params.piece.begin : 0);
            const uint32_t page = held * rows.n_kv_heads + rows.head;
            const int32_t row = -static_cast<int32_t>(keys_back<C>(walk, params.n_keys));
            ptx::barrier_wait(ptx::shared_address(&shared.keys_empty[ring.stage]), ring.phase ^ 1);
            copy_tile<C>(ptx::shared_address(shared.keys[ring.stage]), k_map, ptx::shared_address(&shared.keys_full[ring.stage]), row,
                         page);
            ptx::barrier_wait(ptx::shared_address(&shared.values_empty[ring.stage]), ring.phase ^ 1);
            copy_tile<C>(ptx::shared_address(shared.values[ring.stage]), v_map, ptx::shared_address(&shared.values_full[ring.stage]), row,
                         page);
            ring.advance();
        } while (walk.next());
    }
}

/// One consumer warpgroup's view of the block it works on.
template <class C>
struct Consumer {
    using T = typename C::T;
    using P = Panels<C::kHeadDim>;
    static constexpr int kDepth = 16;  // of one product

    Shared<C>& shared;
    const Params& params;
    const int index = __shfl_sync(~0u, threadIdx.x / 128, 0) - 1;  // uniform, and known to be
    const int thread = threadIdx.x % 128;
    const int lane = threadIdx.x % 32;
    const int first_row = 64 * index;                    // of this warpgroup, in the block
    const int warp_row = 64 * index + thread / 32 * 16;  // of this warp

    /// What warps write into `rotated` is ready for its readers, or read. Rows stay within a warp, but
    /// wgmma reads shared memory for the whole warpgroup.
    __device__ __forceinline__ void join() const {
        if constexpr (C::kQueriesInRegisters) {
            __syncwarp();
        } else {
            ptx::fence_async_proxy();
            ptx::named_sync(own_barrier(index), 128);
        }
    }

    /// One arrival a warp, once it needs the buffer no more.
    __device__ __forceinline__ void release(const uint64_t& barrier) const {
        if (lane == 0) ptx::barrier_arrive(ptx::shared_address(&barrier));
    }

    /// Every thread for itself: each has read the queries and the item with ordinary loads.
    __device__ __forceinline__ void release_queries() const { ptx::barrier_arrive(ptx::shared_address(&shared.queries_empty)); }

    __device__ __forceinline__ void await_turn() const { ptx::named_sync(turn_barrier(index), 256); }
    __device__ __forceinline__ void pass_turn() const { ptx::named_arrive(turn_barrier(index + 1 == C::kConsumers ? 0 : index + 1), 256); }

    /// Index of the query in `row` of the block; rows outside of the block repeat its first or last.
    static __device__ __forceinline__ uint32_t index_of(const QueryBlock& block, int row) {
        const uint32_t index = first_index<C>(block) + row;
        return min(C::kListed ? max(index, block.first) : index, block.first + block.rows - 1);
    }

    /// Rotates this warp's queries for the keys of `range`. No product may be under way.
    __device__ __forceinline__ void rotate(const QueryBlock& block, Range range, uint32_t (&q)[C::kHeadDim / 4]) const {
        join();
        constexpr int kPieces = C::kHeadDim / 8;                               // of a row
        constexpr int kItems = 16 * kPieces / 32;                              // of a thread
        constexpr int kBatch = kItems % 8 == 0 ? 4 : kItems % 2 == 0 ? 2 : 1;  // loaded together; more would spill
        const QueryRotation rotation{params.shape, params.scheme, params.cos_sin, params.dtype};
#pragma unroll 1
        for (int done = 0; done < kItems; done += kBatch) {
            QueryRotation::Loaded loaded[kBatch];
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int at = (done + n) * 32 + lane, row = warp_row + at / kPieces;
                const uint32_t r = index_of(block, row) - block.chunk * params.scheme.chunk_size;
                rotation.load(loaded[n], shared.queries + row * C::kHeadDim * 2, at % kPieces, range, r);
            }
#pragma unroll
            for (int n = 0; n < kBatch; ++n) {
                const int at = (done + n) * 32 + lane, row = warp_row + at / kPieces;
                rotation.finish<T>(loaded[n], at % kPieces, params.scheme.logit_factor(index_of(block, row)), [&](int e, uint2 values) {
                    *reinterpret_cast<uint2*>(shared.rotated + P::offset(C::kRows, row, e)) = values;
                });
            }
        }
        join();
        if constexpr (C::kQueriesInRegisters) {
#pragma unroll
            for (int e = 0; e < C::kHeadDim; e += kDepth)
                ptx::load_matrices(*reinterpret_cast<uint32_t (*)[4]>(&q[e / 4]),
                                   ptx::shared_address(shared.rotated) + P::offset(C::kRows, warp_row + lane % 16, e + lane / 16 * 8));
        }
    }

    /// Issues s = Q K^T.
    __device__ __forceinline__ void multiply_keys(float (&s)[C::kKeys / 2], const uint32_t (&q)[C::kHeadDim / 4], uint32_t stage) const {
        const uint64_t shared_q = wgmma::descriptor<C::kHeadDim>(ptx::shared_address(shared.rotated) + first_row * P::kRowBytes, 16);
        const uint64_t k = wgmma::descriptor<C::kHeadDim>(ptx::shared_address(shared.keys[stage]), 16);
#pragma unroll
        for (int e = 0; e < C::kHeadDim; e += kDepth) {
            const int panel = e / P::kWidth, column = e % P::kWidth * 2;
            const uint64_t tile = wgmma::advance(k, panel * C::kKeys * P::kRowBytes + column);
            using Product = wgmma::Product<C::kKeys, T>;
            if constexpr (C::kQueriesInRegisters)
                Product::template registers<false>(s, q + e / 4, tile, e > 0);
            else
                Product::shared(s, wgmma::advance(shared_q, panel * C::kRows * P::kRowBytes + column), tile, e > 0);
        }
    }

    /// Issues o += P V.
    __device__ __forceinline__ void multiply_values(float (&o)[C::kHeadDim / 2], const uint32_t (&p)[C::kKeys / 4], uint32_t stage) const {
        const uint64_t v = wgmma::descriptor<C::kHeadDim>(ptx::shared_address(shared.values[stage]), C::kKeys * P::kRowBytes);
#pragma unroll
        for (int key = 0; key < C::kKeys; key += kDepth)
            wgmma::Product<C::kHeadDim, T>::template registers<true>(o, p + key / 4, wgmma::advance(v, key * P::kRowBytes), 1);
    }

    __device__ __forceinline__ void mask(float (&s)[C::kKeys / 2], const QueryBlock& block, const typename C::Walk& walk,
                                         [[maybe_unused]] uint32_t head) const {
        cap_if<C::kVariant>(s, params.scale, params.traits);
        const uint32_t back = keys_back<C>(walk, params.n_keys);
        TileMask<C::kKeys, C::kWindowed> mask(walk, lane, first_index<C>(block) + first_row, back, params.traits.window);
        if constexpr (C::kListed) {
            const uint32_t quarter = warp_row / kQuarter;
            if ((walk.entry.quarters() >> quarter & 1) == 0) {
                mask.hide();
            } else if (params.lists.lines.columns != nullptr) {
                const QuarterRows rows(block.first, block.rows, quarter);
                LineMask<C::kKeys>(params.lists.lines, head, static_cast<int>(walk.key) - static_cast<int>(back), rows.first, rows.count,
                                   lane)
                    .apply(s, lane);
            }
        }
        mask.apply(s, thread / 32 * 16 + lane / 4);
    }

    /// Divides by the sums and writes the block's rows out, through the shared tile of the queries.
    __device__ __forceinline__ void write(const float (&o)[C::kHeadDim / 2], const float (&inverse)[2], const QueryBlock& block,
                                          uint32_t head) const {
        const uint32_t first = first_index<C>(block);
        join();
        stage_output<C::kHeadDim, C::kRows>(shared.rotated, lane, warp_row + lane / 4, o, inverse, params.dtype);
        join();
        write_output<C::kHeadDim, C::kRows, 16>(
            shared.rotated, lane, warp_row,
            {params.out, params.out_stride, first - params.blocks.start, block.first + block.rows - first, head, block.first - first});
    }

    /// Writes an item's part of the block, undivided.
    __device__ __forceinline__ void write_part(const float (&o)[C::kHeadDim / 2], const OnlineSoftmax& softmax, uint32_t item) const {
        const size_t first = params.parts.place(item) * C::kRows + warp_row + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = softmax.row_sum(half);
            if (lane % 4 == 0) params.parts.softmax[first + 8 * half] = {softmax.maximum[half], sum};
        }
#pragma unroll
        for (int n = 0; n < C::kHeadDim / 2; n += 2) {
            const int half = n / 2 % 2, column = n / 4 * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(params.parts.out + (first + 8 * half) * C::kHeadDim + column) = {o[n], o[n + 1]};
        }
    }

    __device__ __forceinline__ void run() const {
        if (C::kTurns && index + 1 == C::kConsumers) pass_turn();  // the first warpgroup has the first turn
        Ring<C::kStages> ring;
        for (uint32_t q_phase = 0;; q_phase ^= 1) {
            ptx::barrier_wait(ptx::shared_address(&shared.queries_full), q_phase);
            if (shared.item < 0) return;
            const uint32_t item = shared.item;
            const WorkOrder::Item work = Task<C>::work(params, item);
            auto [block, walk] = Task<C>::of(params, work, item);
            OnlineSoftmax softmax;
            float s[C::kKeys / 2], o[C::kHeadDim / 2], keep[2];
            uint32_t p[C::kKeys / 4], q[C::kHeadDim / 4];  // operands; q if the queries are in registers
            rotate(block, walk.range(), q);
            if (walk.in_last_range()) release_queries();
            ptx::barrier_wait(ptx::shared_address(&shared.keys_full[ring.stage]), ring.phase);
            wgmma::fence();
            multiply_keys(s, q, ring.stage);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(s);
            release(shared.keys_empty[ring.stage]);
            mask(s, block, walk, work.head);
            softmax.step(s, params.scale.scale_log2, keep);
            to_operands<T>(s, p);
#pragma unroll
            for (int n = 0; n < C::kHeadDim / 2; ++n) o[n] = 0.0f;

            while (walk.next()) {
                if (walk.entered) {
                    rotate(block, walk.range(), q);
                    if (walk.in_last_range()) release_queries();
                }
                const Ring<C::kStages> previous = ring;
                ring.advance();
                ptx::barrier_wait(ptx::shared_address(&shared.keys_full[ring.stage]), ring.phase);
                if constexpr (C::kTurns) await_turn();
                wgmma::pin(s), wgmma::pin(o), wgmma::pin(p);
                if constexpr (C::kQueriesInRegisters) wgmma::pin(q);
                wgmma::fence();
                multiply_keys(s, q, ring.stage);
                wgmma::commit();
                ptx::barrier_wait(ptx::shared_address(&shared.values_full[previous.stage]), previous.phase);
                wgmma::fence();
                multiply_values(o, p, previous.stage);
                wgmma::commit();
                if constexpr (C::kTurns) pass_turn();
                wgmma::wait<1>();
                wgmma::pin(s);
                release(shared.keys_empty[ring.stage]);
                mask(s, block, walk, work.head);
                softmax.step(s, params.scale.scale_log2, keep);
                // The assembler takes waits to be free to move and would put the next one in front of the
                // softmax, which then overlaps with nothing. Asking again for values that are here stops it.
                // With three warpgroups the others fill the gap, and the question costs more than it saves.
                if constexpr (C::kQueriesInRegisters)
                    ptx::barrier_wait(ptx::shared_address(&shared.values_full[previous.stage]), previous.phase);
                wgmma::wait<0>();
                wgmma::pin(s), wgmma::pin(o);
                release(shared.values_empty[previous.stage]);
                to_operands<T>(s, p);
                rescale(o, keep);
            }

            ptx::barrier_wait(ptx::shared_address(&shared.values_full[ring.stage]), ring.phase);
            wgmma::pin(o), wgmma::pin(p);
            wgmma::fence();
            multiply_values(o, p, ring.stage);
            wgmma::commit();
            [[maybe_unused]] float inverse[2];
            if constexpr (C::kVariant != Variant::Plain) {
                softmax.inverse_sums(inverse,
                                     [&](float maximum) { return sink_share(params.traits, work.head, maximum, params.scale.scale_log2); });
            } else if constexpr (!C::kSplit) {
                softmax.inverse_sums(inverse);
            }
            wgmma::wait<0>();
            wgmma::pin(o);
            release(shared.values_empty[ring.stage]);
            ring.advance();
            if constexpr (C::kSplit)
                write_part(o, softmax, item);
            else
                write(o, inverse, block, work.head);
        }
    }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    prefill_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, const __grid_constant__ Params params) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
    if (threadIdx.x == 0) {
        ptx::prefetch_map(&q_map), ptx::prefetch_map(&k_map), ptx::prefetch_map(&v_map);
        constexpr uint32_t kConsumerWarps = 4 * C::kConsumers;
        for (int stage = 0; stage < C::kStages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&shared.keys_full[stage]), 1);
            ptx::barrier_init(ptx::shared_address(&shared.keys_empty[stage]), kConsumerWarps);
            ptx::barrier_init(ptx::shared_address(&shared.values_full[stage]), 1);
            ptx::barrier_init(ptx::shared_address(&shared.values_empty[stage]), kConsumerWarps);
        }
        ptx::barrier_init(ptx::shared_address(&shared.queries_full), 1);
        ptx::barrier_init(ptx::shared_address(&shared.queries_empty), 128 * C::kConsumers);
        ptx::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ptx::give_registers<C::kProducerRegisters>();
        if (threadIdx.x == 0) produce<C>(shared, &q_map, &k_map, &v_map, params);
    } else {
        ptx::take_registers<C::kConsumerRegisters>();
        Consumer<C>{shared, params}.run();
    }
#endif
}

}  // namespace dca::cuda::sm90
