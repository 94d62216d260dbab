// The choice of pages for one block of queries and one head (docs/sparse.md), by four warps, each for a quarter of a page:
// 32 queries. Their scores with the mean keys are made twice with mma.sync, once for each query's largest, then for the
// pages' weights, which lie in global memory until the largest is known.
//
// Queries are rotated once for each range, as in the prefill kernels, but rounded to f16 whatever the cache's type; products
// are summed in f32.
#pragma once

#include "cuda/attention/query_rotation.cuh"
#include "cuda/device/panels.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/sparse/mean_rows.cuh"
#include "cuda/sparse/page_blocks.h"
#include "core/positions/sparse_prefill.h"

namespace dca::cuda::selection {

struct Params {
    SelectArgs args;
    PageBlocks blocks;
    uint32_t most_pages;
    uint32_t most_rows;  // of means, those of each range rounded up to whole tiles
    float scale_log2;
};

template <int kHeadDim_>
struct Config {
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kWarps = kQuarters;
    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kMeans = kHeadDim <= 128 ? 64 : 32;  // a tile
    static constexpr int kTileBytes = kMeans * kHeadDim * 2;
    static constexpr int kStages = 3;
    static constexpr int kResident = kHeadDim <= 128 ? 3 : 1;  // blocks of threads a multiprocessor
};
constexpr uint32_t kMostTile = 64;

template <class C>
struct Shared {
    alignas(1024) uint8_t queries[C::kWarps][16 * C::kHeadDim * 2];  // on their way to registers
    alignas(1024) uint8_t means[C::kStages][C::kTileBytes];
    float least[kQuarters];        // weights that are read, by quarter
    uint32_t kept[C::kWarps + 1];  // pages, by warp; of all so far
    unsigned long long unread[C::kWarps];
};

/// A number in [0, 1) from three, the same in every run (splitmix64's steps).
__device__ __forceinline__ float drawn(uint32_t head, uint32_t own, uint32_t page) {
    uint64_t z = (uint64_t{head} << 54 ^ uint64_t{own} << 27 ^ page) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return static_cast<float>((z ^ z >> 31) >> 40) * 0x1p-24f;
}

template <class C>
struct Chooser {
    using P = Panels<C::kHeadDim>;
    static constexpr int kTiles = kQuarter / 16;  // of 16 queries

    Shared<C>& shared;
    const Params& params;
    const ListedBlock block;
    const uint32_t head;
    float* weights;  // (kQuarters, most_rows)
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;  // a quarter
    const uint32_t base = block.first / kPageTokens * kPageTokens;
    const bool active = block.rows_of(warp) != 0;

    uint32_t q[kTiles][C::kHeadDim / 4];  // operands
    float top[kTiles][2];                 // of this thread's rows lane / 4 and that + 8 of each tile

    __device__ __forceinline__ bool holds(uint32_t row) const { return base + row - block.first < block.rows; }

    /// This warp's queries, rotated for the keys of `range`, into q.
    __device__ __forceinline__ void rotate(Range range) {
        const SelectArgs& args = params.args;
        const QueryRotation rotation{args.shape, args.scheme, args.rotary.cos_sin, args.dtype};
        constexpr int kPieces = C::kHeadDim / 8;
        constexpr int kItems = 16 * kPieces / 32;                              // of a thread, for 16 queries
        constexpr int kBatch = kItems % 4 == 0 ? 4 : kItems % 2 == 0 ? 2 : 1;  // loaded together
        const uint32_t last = block.first + block.rows - 1;
        uint8_t* staged = shared.queries[warp];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            const uint32_t first = base + kQuarter * warp + 16 * tile;
            const auto index_of = [&](int at) { return min(max(first + at / kPieces, block.first), last); };
            __syncwarp();
#pragma unroll 1
            for (int done = 0; done < kItems; done += kBatch) {
                QueryRotation::Loaded loaded[kBatch];
#pragma unroll
                for (int n = 0; n < kBatch; ++n) {
                    const int at = (done + n) * 32 + lane;
                    const uint32_t i = index_of(at);
                    const uint8_t* source =
                        static_cast<const uint8_t*>(args.q) + 2 * ((i - args.start) * args.q_stride + head * C::kHeadDim);
                    rotation.load(loaded[n], source, at % kPieces, range, i - block.chunk * args.scheme.chunk_size);
                }
#pragma unroll
                for (int n = 0; n < kBatch; ++n) {
                    const int at = (done + n) * 32 + lane;
                    rotation.finish<__half>(loaded[n], at % kPieces, args.scheme.logit_factor(index_of(at)), [&](int e, uint2 values) {
                        *reinterpret_cast<uint2*>(staged + P::offset(16, at / kPieces, e)) = values;
                    });
                }
            }
            __syncwarp();
#pragma unroll
            for (int e = 0; e < C::kHeadDim; e += 16)
                ptx::load_matrices(*reinterpret_cast<uint32_t (*)[4]>(&q[tile][e / 4]),
                                   ptx::shared_address(staged) + P::offset(16, lane % 16, e + lane / 16 * 8));
        }
    }

    /// Issues the copies of rows [first, first + kMeans) of means; those past the last become zeros.
    __device__ __forceinline__ void start(const MeanRows& rows, uint32_t first, uint8_t* tile) const {
        const SelectArgs& args = params.args;
        constexpr int kVectors = C::kHeadDim / 8;
        const uint32_t n_kv_heads = args.shape.n_kv_heads, kv_head = head / (args.shape.n_heads / n_kv_heads);
#pragma unroll
        for (int n = 0; n < (C::kMeans * kVectors + C::kThreads - 1) / C::kThreads; ++n) {
            const int at = n * C::kThreads + threadIdx.x;
            if (C::kMeans * kVectors % C::kThreads != 0 && at >= C::kMeans * kVectors) break;
            const int row = at / kVectors, vector = at % kVectors;
            const bool valid = first + row < rows.count();
            const MeanRows::Place place = rows.at(valid ? first + row : 0);
            const size_t page = size_t{__ldg(args.page_table + place.page)} * n_kv_heads + kv_head;
            const __half* from = args.means + (page * kPageSides + place.side) * C::kHeadDim + vector * 8;
            ptx::copy_async<16>(ptx::shared_address(tile) + P::offset(C::kMeans, row, vector * 8), from, valid);
        }
        ptx::copy_commit();
    }

    /// Calls take(first of 16 columns, scores) for all of a tile: scores[tile] as two products of 8 columns each.
    template <class Take>
    __device__ __forceinline__ void score(const uint8_t* means, Take&& take) const {
#pragma unroll 1
        for (int key = 0; key < C::kMeans; key += 16) {
            float s[kTiles][2][4] = {};
#pragma unroll
            for (int e = 0; e < C::kHeadDim; e += 16) {
                uint32_t k[4];
                ptx::load_matrices(k,
                                   ptx::shared_address(means) + P::offset(C::kMeans, key + lane / 16 * 8 + lane % 8, e + lane / 8 % 2 * 8));
#pragma unroll
                for (int tile = 0; tile < kTiles; ++tile) {
                    const uint32_t (&a)[4] = *reinterpret_cast<const uint32_t (*)[4]>(&q[tile][e / 4]);
                    ptx::mma_16x8x16<__half>(s[tile][0], a, k[0], k[1]);
                    ptx::mma_16x8x16<__half>(s[tile][1], a, k[2], k[3]);
                }
            }
            take(key, s);
        }
    }

    /// Calls visit(first row, tile of means) for all tiles of a range, by all warps.
    template <class Visit>
    __device__ __forceinline__ void for_tiles(const MeanRows& rows, Visit&& visit) {
        const uint32_t tiles = ceil_div(rows.count(), C::kMeans);
        const auto fetch = [&](uint32_t tile) {
            if (tile < tiles)
                start(rows, tile * C::kMeans, shared.means[tile % C::kStages]);
            else
                ptx::copy_commit();  // of nothing: the wait below counts
        };
        for (uint32_t tile = 0; tile + 1 < C::kStages; ++tile) fetch(tile);
        for (uint32_t tile = 0; tile < tiles; ++tile) {
            ptx::copy_wait<C::kStages - 2>();
            __syncthreads();  // the tile is here, and the one before used up
            fetch(tile + C::kStages - 1);
            if (active) visit(tile * C::kMeans, shared.means[tile % C::kStages]);
        }
        __syncthreads();
    }

    /// Every query's largest score.
    __device__ __forceinline__ void find_tops(const MeanRows& rows) {
        for_tiles(rows, [&](uint32_t first, const uint8_t* means) {
            score(means, [&](int key, const float (&s)[kTiles][2][4]) {
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    const uint32_t row = first + key + n / 2 * 8 + lane % 4 * 2 + n % 2;
                    if (row >= rows.count()) continue;
#pragma unroll
                    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
                        for (int half = 0; half < 2; ++half) top[tile][half] = fmaxf(top[tile][half], s[tile][n / 2][2 * half + n % 2]);
                }
            });
        });
    }

    /// The weights of the range's rows; zeros past the last.
    __device__ __forceinline__ void weigh(const MeanRows& rows, float* range_weights) {
        for_tiles(rows, [&](uint32_t first, const uint8_t* means) {
            score(means, [&](int key, const float (&s)[kTiles][2][4]) {
                float sums[4] = {};  // by column
#pragma unroll
                for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const bool counts = holds(kQuarter * warp + 16 * tile + 8 * half + lane / 4);
                        const float offset = top[tile][half] * params.scale_log2;
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
                            const float weight = ptx::exp2(s[tile][n / 2][2 * half + n % 2] * params.scale_log2 - offset);
                            sums[n] += counts ? weight : 0.0f;
                        }
                    }
                }
#pragma unroll
                for (int n = 0; n < 4; ++n) {
#pragma unroll
                    for (int step = 4; step < 32; step *= 2) sums[n] += __shfl_xor_sync(~0u, sums[n], step);
                }
                if (lane < 4) {
#pragma unroll
                    for (int n = 0; n < 4; n += 2) {
                        const uint32_t row = first + key + n / 2 * 8 + lane * 2;
                        *reinterpret_cast<float2*>(range_weights + row) =
                            make_float2(row < rows.count() ? sums[n] : 0.0f, row + 1 < rows.count() ? sums[n + 1] : 0.0f);
                    }
                }
            });
        });
    }

    /// Where a range's weights lie among those of a quarter.
    __device__ __forceinline__ uint32_t first_weight(uint32_t range) const {
        uint32_t at = 0;
        for (uint32_t nearer = 0; nearer < range; ++nearer)
            at += ceil_div(MeanRows(params.args.scheme, block, static_cast<Range>(nearer)).count(), C::kMeans) * C::kMeans;
        return at;
    }

    /// Weighs all pages. Ranges are visited from the farthest to the nearest and back: that saves a rotation.
    __device__ __forceinline__ void weigh_all() {
        const Scheme& scheme = params.args.scheme;
        const uint32_t ranges = range_count(scheme, block.chunk);
        for (float (&tile)[2] : top) tile[0] = tile[1] = -INFINITY;
        uint32_t rotated = ranges;  // for none
#pragma unroll 1
        for (uint32_t visit = 0; visit < 2 * ranges; ++visit) {
            const bool second = visit >= ranges;
            const uint32_t range = second ? visit - ranges : ranges - 1 - visit;
            const MeanRows rows(scheme, block, static_cast<Range>(range));
            if (visit == ranges) {
                for (float (&tile)[2] : top) {
                    for (float& one : tile) {
                        one = fmaxf(one, __shfl_xor_sync(~0u, one, 1));
                        one = fmaxf(one, __shfl_xor_sync(~0u, one, 2));
                    }
                }
            }
            if (rows.count() == 0) continue;
            if (active && rotated != range) rotate(static_cast<Range>(range));
            rotated = range;
            if (second)
                weigh(rows, weights + warp * params.most_rows + first_weight(range));
            else
                find_tops(rows);
        }
    }

    /// What a page must weigh for this warp's quarter to read it.
    __device__ __forceinline__ void find_least() {
        const uint32_t count = first_weight(range_count(params.args.scheme, block.chunk));
        float heaviest = 0.0f;
        if (active)
            for (uint32_t row = lane; row < count; row += 32) heaviest = fmaxf(heaviest, weights[warp * params.most_rows + row]);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) heaviest = fmaxf(heaviest, __shfl_xor_sync(~0u, heaviest, step));
        if (lane == 0) shared.least[warp] = params.args.alpha * heaviest;
    }

    /// Which quarters of `all` read a page that is not read in any case.
    __device__ __forceinline__ uint32_t readers(uint32_t all, uint32_t page, const MeanRows& rows, const float* range_weights) const {
        uint32_t quarters = all;
        const uint32_t row = page - rows.first_page, second = rows.second_row(page);
#pragma unroll
        for (uint32_t n = 0; n < kQuarters; ++n) {
            if ((all >> n & 1) == 0) continue;
            const float* of_quarter = range_weights + n * params.most_rows;
            // What is no number is read, and gives none.
            if (of_quarter[row] < shared.least[n] && of_quarter[second] < shared.least[n]) quarters &= ~(1u << n);
        }
        return quarters;
    }

    /// The same where the benchmark decides how much is read: the same pages for all quarters, drawn so that all that is
    /// read is `share` of what the block sees.
    __device__ __forceinline__ uint32_t forced_readers(uint32_t all, uint32_t page, float share, uint32_t seen) const {
        const float always = kSinkPages + kLocalPages + 1;
        const float rest = (share * seen - always) / (seen - always);
        return drawn(head, block.first / kPageTokens, page) < rest ? all : 0;
    }

    /// Writes the list, and what it leaves out.
    __device__ __forceinline__ void list(ListedBlock* described, ListedPage* pages) {
        const SelectArgs& args = params.args;
        const uint32_t own = block.first / kPageTokens;
        uint32_t all = 0;
        for (uint32_t n = 0; n < kQuarters; ++n) all |= (block.rows_of(n) != 0 ? 1u : 0u) << n;
        const uint32_t seen = own + 1 - first_key(args.scheme, block.chunk) / kPageTokens;
        unsigned long long unread = 0;
        uint32_t kept = 0;  // so far
        for (uint32_t range = 0; range < range_count(args.scheme, block.chunk); ++range) {
            const KeyRange keys = key_range<false>(args.scheme, block.chunk, static_cast<Range>(range), block.first + block.rows);
            const MeanRows rows(args.scheme, block, static_cast<Range>(range));
            const float* range_weights = weights + first_weight(range);
            const uint32_t first = keys.begin / kPageTokens, end = ceil_div(keys.end, kPageTokens);
            for (uint32_t done = 0; done < end - first; done += C::kThreads) {
                const uint32_t page = end - 1 - done - threadIdx.x;
                uint32_t quarters = 0;
                if (done + threadIdx.x < end - first) {
                    const bool always = always_read(page, own);
                    quarters = always                      ? all
                               : args.forced_share >= 0.0f ? forced_readers(all, page, args.forced_share, seen)
                                                           : readers(all, page, rows, range_weights);
                    const uint32_t begin = page * kPageTokens, stop = begin + kPageTokens;
                    const uint32_t n_keys = (keys.end < stop ? keys.end : stop) - (keys.begin > begin ? keys.begin : begin);
                    for (uint32_t n = 0; n < kQuarters; ++n)
                        if (((all & ~quarters) >> n & 1) != 0) unread += block.rows_of(n) * n_keys;
                }
                const uint32_t ballot = __ballot_sync(~0u, quarters != 0);
                if (lane == 0) shared.kept[warp] = __popc(ballot);
                __syncthreads();
                uint32_t before = kept;
                for (int n = 0; n < C::kWarps; ++n) {
                    if (n < warp) before += shared.kept[n];
                    kept += shared.kept[n];
                }
                __syncthreads();
                if (quarters != 0) {
                    const uint32_t at = before + __popc(ballot & ((1u << lane) - 1));
                    pages[at] = ListedPage::of(page, static_cast<Range>(range), quarters);
                }
            }
        }
        for (int step = 16; step > 0; step /= 2) unread += __shfl_xor_sync(~0u, unread, step);
        if (lane == 0 && unread != 0) atomicAdd(args.unread + head, unread);
        if (threadIdx.x == 0) *described = {block.first, block.rows, block.chunk, kept};
    }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kResident) select_kernel(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>(memory);
    const SelectArgs& args = params.args;
    const uint32_t n_heads = args.shape.n_heads;
    float* weights = reinterpret_cast<float*>(args.workspace) + size_t{blockIdx.x} * kQuarters * params.most_rows;
    for (uint32_t item = blockIdx.x; item < params.blocks.count * n_heads; item += gridDim.x) {
        const uint32_t head = item % n_heads, number = params.blocks.count - 1 - item / n_heads;  // the longest first
        const QueryBlock block = params.blocks.at(number);
        Chooser<C> chooser{shared, params, {block.first, block.rows, block.chunk, 0}, head, weights};
        chooser.weigh_all();
        chooser.find_least();
        __syncthreads();
        const size_t list = size_t{head} * params.blocks.count + number;
        chooser.list(args.blocks + list, args.pages + list * params.most_pages);
        __syncthreads();
    }
}

}  // namespace dca::cuda::selection
