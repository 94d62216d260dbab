// Prefill attention with cp.async, ldmatrix and mma.sync, for sm_80 and later, in the manner of
// FlashAttention-2 (Dao, arXiv 2307.08691): a warp owns 16 or 32 queries and keeps their logits and
// output in registers; K and V tiles pass through shared memory, each loaded while the other is
// multiplied. A Q8 cache arrives as bytes and is dequantized to f16 in shared memory.
//
// Where the walk over the keys enters another range, each warp rotates its own queries anew.
#pragma once

#include <type_traits>

#include "cuda/attention/epilogue.cuh"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/line_bits.cuh"
#include "cuda/attention/list_walk.cuh"
#include "cuda/attention/mask.cuh"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/attention/traits.cuh"
#include "cuda/attention/work_order.h"
#include "cuda/device/panels.cuh"

namespace dca::cuda::sm80 {

struct Params {
    PrefillArgs args;
    QueryBlocks blocks;
    WorkOrder order;
    LogitScale scale;
};

template <int kHeadDim_, class T_, bool kQ8_, Variant kVariant_>
struct Config {
    using T = T_;  // of the products
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr bool kQ8 = kQ8_;
    static constexpr Variant kVariant = kVariant_;
    static constexpr bool kListed = kVariant == Variant::Listed;
    static constexpr bool kWindowed = windows(kVariant);
    static constexpr int kWarps = 4;
    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;  // of 16 queries, per warp
    static constexpr int kWarpRows = 16 * kRowTiles;
    static constexpr int kRows = kWarps * kWarpRows;
    static constexpr int kKeys = kHeadDim <= 128 ? 64 : 32;
    static constexpr int kTileBytes = kKeys * kHeadDim * 2;
    static_assert(kPageTokens % kKeys == 0, "a tile lies in one page");
    static constexpr uint32_t kPageParts = kPageTokens / kRows;  // with lists, that a page's queries are worked on in
    static_assert(kPageTokens % kRows == 0);
    using Walk = std::conditional_t<kListed, ListWalk<kKeys>, TileWalk<kKeys, kWindowed>>;
};

/// Queries of one chunk: row r of the tile is the one at index first + r, if r is in [begin, end).
struct Rows {
    uint32_t first, begin, end, chunk;

    /// Rows that are none repeat the first or the last.
    __device__ __forceinline__ uint32_t index_of(uint32_t row) const { return first + min(max(row, begin), end - 1); }
};

/// An item's queries, and the walk over what they read. Without rows (a part of a page with lists) there is nothing to do.
template <class C>
struct Task {
    Rows rows;
    typename C::Walk walk;

    static __device__ __forceinline__ Task of(const Params& params, const WorkOrder::Item& work) {
        if constexpr (C::kListed) {
            const PageLists& lists = params.args.lists;
            const size_t number = size_t{work.head} * lists.n_blocks + work.block / C::kPageParts;
            const uint4 from = __ldg(reinterpret_cast<const uint4*>(lists.blocks + number));
            const ListedBlock listed{from.x, from.y, from.z, from.w};
            const uint32_t first = listed.first / kPageTokens * kPageTokens + work.block % C::kPageParts * C::kRows;
            const uint32_t stop = listed.first + listed.rows;
            return {{first, listed.first > first ? min(listed.first - first, uint32_t{C::kRows}) : 0,
                     stop > first ? min(stop - first, uint32_t{C::kRows}) : 0, listed.chunk},
                    {params.args.scheme, listed, lists.pages, static_cast<uint32_t>(number * lists.most_pages)}};
        } else {
            const QueryBlock block = params.blocks.at(work.block);
            return {{block.first, 0, block.rows, block.chunk}, {params.args.scheme, block, params.args.traits.window}};
        }
    }
};

template <class C>
struct Shared {
    alignas(1024) uint8_t queries[C::kRows * C::kHeadDim * 2];  // rotated; the output on its way out
    alignas(1024) uint8_t keys[C::kTileBytes];
    alignas(1024) uint8_t values[C::kTileBytes];
    alignas(16) uint8_t bytes[2][C::kQ8 ? C::kKeys * C::kHeadDim : 16];  // keys, values as in the cache
};

/// Rows [key, key + kKeys) of one head's keys or values on their way to shared memory.
template <class C>
struct TileLoader {
    using P = Panels<C::kHeadDim>;

    const uint8_t* data;   // of the layer
    const __half* scales;  // of the layer; Q8 only
    uint8_t* tile;
    uint8_t* bytes;  // Q8 only
    const HeadRows& rows;
    uint32_t n_keys;  // that hold something

    /// Issues the copies; rows past n_keys become zeros.
    __device__ __forceinline__ void start(uint32_t key) const {
        constexpr int kElementBytes = C::kQ8 ? 1 : 2;
        constexpr int kVectors = C::kHeadDim * kElementBytes / 16;  // a row
        const uint8_t* first = data + rows.at(key) * (kVectors * 16);
#pragma unroll
        for (int n = 0; n < (C::kKeys * kVectors + C::kThreads - 1) / C::kThreads; ++n) {
            const int at = n * C::kThreads + threadIdx.x;
            if (C::kKeys * kVectors % C::kThreads != 0 && at >= C::kKeys * kVectors) break;
            const int row = at / kVectors, vector = at % kVectors;
            const bool valid = key + row < n_keys;  // else nothing is read, wherever `from` points
            const uint8_t* from = first + at * 16;
            const uint32_t to =
                C::kQ8 ? ptx::shared_address(bytes) + at * 16 : ptx::shared_address(tile) + P::offset(C::kKeys, row, vector * 8);
            ptx::copy_async<16>(to, from, valid);
        }
        ptx::copy_commit();
    }

    /// Q8: bytes times scales, as f16, once the copies have landed.
    __device__ __forceinline__ void dequantize(uint32_t key) const {
        constexpr int kVectors = C::kHeadDim / 8;
        const __half* first = scales + rows.at(key);
#pragma unroll 4
        for (int n = threadIdx.x; n < C::kKeys * kVectors; n += C::kThreads) {
            const int row = n / kVectors, vector = n % kVectors;
            const __half scale = key + row < n_keys ? first[row] : __half(0.0f);
            *reinterpret_cast<uint4*>(tile + P::offset(C::kKeys, row, vector * 8)) =
                dequantize_eight(*reinterpret_cast<const uint2*>(bytes + n * 8), scale);
        }
    }
};

/// One warp's part of a query block: kRowTiles tiles of 16 rows.
template <class C>
struct Warp {
    using T = typename C::T;
    using P = Panels<C::kHeadDim>;

    Shared<C>& shared;
    const Params& params;
    const Rows rows;
    const uint32_t head;
    const int lane = threadIdx.x % 32;
    const int first_row = threadIdx.x / 32 * C::kWarpRows;

    float o[C::kRowTiles][C::kHeadDim / 2] = {};
    OnlineSoftmax softmax[C::kRowTiles];

    /// Rotates this warp's queries for the keys of `range`.
    __device__ __forceinline__ void rotate(Range range) const {
        const PrefillArgs& args = params.args;
        const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
        constexpr int kPieces = C::kHeadDim / 8;
        __syncwarp();
#pragma unroll 1
        for (int n = lane; n < C::kWarpRows * kPieces; n += 32) {
            const int row = first_row + n / kPieces;
            const uint32_t i = rows.index_of(row);
            const uint8_t* source = static_cast<const uint8_t*>(args.q) + 2 * ((i - args.start) * args.q_stride + head * C::kHeadDim);
            QueryRotation::Loaded loaded;
            rotation.load(loaded, source, n % kPieces, range, i - rows.chunk * args.scheme.chunk_size);
            rotation.finish<T>(loaded, n % kPieces, args.scheme.logit_factor(i), [&](int e, uint2 values) {
                *reinterpret_cast<uint2*>(shared.queries + P::offset(C::kRows, row, e)) = values;
            });
        }
        __syncwarp();
        if constexpr (C::kQ8) {
#pragma unroll 1
            for (int row = first_row; row < first_row + C::kWarpRows; ++row)
                turn_row<T, C::kHeadDim>([&](int e) { return reinterpret_cast<uint32_t*>(shared.queries + P::offset(C::kRows, row, e)); });
            __syncwarp();
        }
    }

    /// s = Q K^T.
    __device__ __forceinline__ void multiply_keys(float (&s)[C::kRowTiles][C::kKeys / 2]) const {
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile)
#pragma unroll
            for (float& logit : s[tile]) logit = 0.0f;
#pragma unroll
        for (int e = 0; e < C::kHeadDim; e += 16) {
            uint32_t q[C::kRowTiles][4];
#pragma unroll
            for (int tile = 0; tile < C::kRowTiles; ++tile)
                ptx::load_matrices(q[tile], ptx::shared_address(shared.queries) +
                                                P::offset(C::kRows, first_row + 16 * tile + lane % 16, e + lane / 16 * 8));
#pragma unroll
            for (int key = 0; key < C::kKeys; key += 16) {
                uint32_t k[4];
                ptx::load_matrices(
                    k, ptx::shared_address(shared.keys) + P::offset(C::kKeys, key + lane / 16 * 8 + lane % 8, e + lane / 8 % 2 * 8));
#pragma unroll
                for (int tile = 0; tile < C::kRowTiles; ++tile) {
                    ptx::mma_16x8x16<T>(accumulator(s[tile], key / 8), q[tile], k[0], k[1]);
                    ptx::mma_16x8x16<T>(accumulator(s[tile], key / 8 + 1), q[tile], k[2], k[3]);
                }
            }
        }
    }

    /// o += P V.
    __device__ __forceinline__ void multiply_values(const uint32_t (&p)[C::kRowTiles][C::kKeys / 4]) {
#pragma unroll
        for (int key = 0; key < C::kKeys; key += 16) {
#pragma unroll
            for (int e = 0; e < C::kHeadDim; e += 16) {
                uint32_t v[4];
                ptx::load_matrices_transposed(v,
                                              ptx::shared_address(shared.values) + P::offset(C::kKeys, key + lane % 16, e + lane / 16 * 8));
#pragma unroll
                for (int tile = 0; tile < C::kRowTiles; ++tile) {
                    const uint32_t a[4] = {p[tile][key / 4], p[tile][key / 4 + 1], p[tile][key / 4 + 2], p[tile][key / 4 + 3]};
                    ptx::mma_16x8x16<T>(accumulator(o[tile], e / 8), a, v[0], v[1]);
                    ptx::mma_16x8x16<T>(accumulator(o[tile], e / 8 + 1), a, v[2], v[3]);
                }
            }
        }
    }

    /// Takes the logits of the walk's current tile into the softmax, leaving operands for P V.
    __device__ __forceinline__ void absorb(float (&s)[C::kRowTiles][C::kKeys / 2], uint32_t (&p)[C::kRowTiles][C::kKeys / 4],
                                           const typename C::Walk& walk) {
        TileMask<C::kKeys, C::kWindowed> mask(walk, lane, rows.first + first_row, 0, params.args.traits.window);
        // Before anything is masked.
#pragma unroll
        for (auto& logits : s) cap_if<C::kVariant>(logits, params.scale, params.args.traits);
        if constexpr (C::kListed) {
            const uint32_t quarter = (rows.first % kPageTokens + first_row) / kQuarter;
            const LineBits& lines = params.args.lists.lines;
            if ((walk.entry.quarters() >> quarter & 1) == 0) {
                mask.hide();
            } else if (lines.columns != nullptr) {
                const QuarterRows own(rows.first + rows.begin, rows.end - rows.begin, quarter);
                const LineMask<C::kKeys> read(lines, head, static_cast<int>(walk.key), own.first, own.count, lane);
#pragma unroll
                for (auto& logits : s) read.apply(logits, lane);
            }
        }
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile) {
            mask.apply(s[tile], 16 * tile + lane / 4);
            float keep[2];
            softmax[tile].step(s[tile], params.scale.scale_log2, keep);
            to_operands<T>(s[tile], p[tile]);
            rescale(o[tile], keep);
        }
    }

    /// Divides by the sums and writes the rows out, through the shared tile of the queries.
    __device__ __forceinline__ void write() {
        const PrefillArgs& args = params.args;
        __syncwarp();
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile) {
            float inverse[2];
            if constexpr (C::kVariant == Variant::Plain) {
                softmax[tile].inverse_sums(inverse);
            } else {
                softmax[tile].inverse_sums(inverse,
                                           [&](float maximum) { return sink_share(args.traits, head, maximum, params.scale.scale_log2); });
            }
            stage_output<C::kHeadDim, C::kRows>(shared.queries, lane, first_row + 16 * tile + lane / 4, o[tile], inverse, args.dtype);
        }
        __syncwarp();
        write_output<C::kHeadDim, C::kRows, C::kWarpRows>(shared.queries, lane, first_row,
                                                          {args.out, args.out_stride, rows.first - args.start, rows.end, head, rows.begin});
    }

private:
    /// The four registers of columns 8 j ... 8 j + 7.
    template <int kCount>
    static __device__ __forceinline__ float (&accumulator(float (&acc)[kCount], int j))[4] {
        return *reinterpret_cast<float (*)[4]>(&acc[4 * j]);
    }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads) prefill_kernel(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>(memory);
    const PrefillArgs& args = params.args;
    const WorkOrder::Item work = params.order.at(blockIdx.x);
    auto [own, walk] = Task<C>::of(params, work);
    if (own.begin >= own.end) return;
    Warp<C> warp{shared, params, own, work.head};

    const HeadRows rows{args.page_table, static_cast<uint32_t>(args.shape.n_kv_heads),
                        work.head / (args.shape.n_heads / args.shape.n_kv_heads)};
    const uint32_t n_keys = args.start + args.n_queries;
    const TileLoader<C> keys{static_cast<const uint8_t*>(args.cache.keys),
                             static_cast<const __half*>(args.cache.key_scales),
                             shared.keys,
                             shared.bytes[0],
                             rows,
                             n_keys};
    const TileLoader<C> values{static_cast<const uint8_t*>(args.cache.values),
                               static_cast<const __half*>(args.cache.value_scales),
                               shared.values,
                               shared.bytes[1],
                               rows,
                               n_keys};

    keys.start(walk.key);
    bool more = true;
    while (more) {
        if (walk.entered) warp.rotate(walk.range());
        ptx::copy_wait<0>();
        __syncthreads();  // the keys are here, and the last tile's values used up
        values.start(walk.key);
        if constexpr (C::kQ8) {
            keys.dequantize(walk.key);
            __syncthreads();
        }
        float s[C::kRowTiles][C::kKeys / 2];
        uint32_t p[C::kRowTiles][C::kKeys / 4];
        warp.multiply_keys(s);
        ptx::copy_wait<0>();
        __syncthreads();  // the values are here, and the keys used up
        if constexpr (C::kQ8) values.dequantize(walk.key);
        warp.absorb(s, p, walk);
        more = walk.next();
        if (more) keys.start(walk.key);  // not earlier: registers are short while the logits live
        if constexpr (C::kQ8) __syncthreads();
        warp.multiply_values(p);
    }
    warp.write();
}

}  // namespace dca::cuda::sm80
