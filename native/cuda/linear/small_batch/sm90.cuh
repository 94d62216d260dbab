// The kernel of products with few rows on Hopper: y (+)= x wᵀ, as in small_batch.cuh and with its split of the work, but every
// role has its own warps, so that neither copies nor barriers cost those that multiply any instructions:
//   one thread     has the copy engine fill a ring of stages with weights, from before the previous kernel's end on: as much as
//                  the ring holds is there when x comes
//   some warps     bring x, in the order in which wgmma reads it (layout.h)
//   16 warps       unpack 16 rows of weights each in registers, which are wgmma's left operand; x is the right one
// Blocks stay for the whole product. A matrix of few tiles is cut along its columns as well: a cluster of blocks has a tile, and
// each of them adds up a part of its rows from the shared memory of all.
#pragma once

#include <algorithm>

#include "cuda/device/wgmma.cuh"
#include "cuda/linear/activation.cuh"
#include "cuda/linear/small_batch/pair_table.cuh"
#include "cuda/linear/small_batch/small_batch.cuh"

namespace dca::cuda::few::sm90 {

/// kN: rows of x that are multiplied in one pass.
template <class F, int kN>
struct Config {
    using S = Step<F>;
    /// Whether mma multiplies and the copy engine brings x, too.
    static constexpr bool kMma = kN == 16 && F::kLowBits == 4;
    static constexpr uint32_t kWarps = kTileRows / 16, kConsumers = 32 * kWarps;
    // Warps that bring x: of a step, of all steps under way. The sums of many rows leave no registers for more.
    static constexpr uint32_t kXPair = kMma || kN > 32 ? 1 : 2, kXSteps = kMma ? 1 : 3, kXWarps = kXSteps * kXPair;
    static constexpr uint32_t kThreads = kConsumers + 32 * (kXWarps + 1);

    // A stage: low plane, x, high plane, scales. The copy engine moves 16 bytes of a row at least.
    static constexpr uint32_t kScaleBox = S::kScaleRow == 0 ? 0 : std::max(16u, S::kScaleRow);
    /// Where the box with a step's scales begins in a row, in halves: at a multiple of 16 bytes, which some steps share.
    static __device__ __forceinline__ uint32_t scale_box(uint32_t k) { return k * S::kScaleRow / kScaleBox * (kScaleBox / 2); }
    static constexpr uint32_t kXAt = kTileRows * kStepBytes, kXBytes = kMma ? 4 * kXBoxesApart : kN * S::kCols * 2;
    static constexpr uint32_t kHighAt = kXAt + kXBytes;
    static constexpr uint32_t kScalesAt = kHighAt + kTileRows * S::kHighRow, kStageBytes = kScalesAt + kTileRows * kScaleBox;
    static constexpr uint32_t kCopiedBytes = kTileRows * (kStepBytes + S::kHighRow + kScaleBox);
    static_assert(kHighAt % 1024 == 0 && kStageBytes % 1024 == 0, "tiles that are swizzled start at multiples of 1024 bytes");
    static constexpr uint32_t kVectors = kConsumers * kN / 8;  // float4 of a tile's sums
};

constexpr uint32_t kMostStages = 8;
constexpr uint32_t kBoxRows = kTileRows / 2;  // that the copy engine brings at a time
constexpr uint32_t kMostTogether = 8;         // blocks of a cluster: what every card has
constexpr uint32_t kAlignment = 1024;

/// The matrix's planes for the copy engine: boxes of half a tile's rows and a step's columns.
struct Maps {
    CUtensorMap low, high, scales, x;
};

struct Barriers {
    alignas(8) uint64_t full[kMostStages], empty[kMostStages];
};

struct Job {
    SmallBatchArgs args;
    uint32_t tiles, steps;  // of a tile
    uint32_t together;      // blocks of a cluster: they share the steps of a tile
    uint32_t stages;        // of the ring
};

/// Where a block's shared memory begins: with a PairTable, behind which the ring is.
__device__ __forceinline__ uint32_t memory_begin() {
    extern __shared__ uint8_t memory[];
    return (ptx::shared_address(memory) + kAlignment - 1) / kAlignment * kAlignment;
}

/// A block's part of the job: every so manieth tile, and of its steps those in [begin, end).
struct Place {
    const Job& job;
    Barriers& barriers;
    uint32_t ring;  // shared memory
    uint32_t pass, first_tile, tiles_apart, rank, begin, end;

    __device__ __forceinline__ Place(const Job& job_, Barriers& barriers_, uint32_t ring_)
        : job(job_),
          barriers(barriers_),
          ring(ring_),
          pass(blockIdx.x),
          first_tile(blockIdx.y / job_.together),
          tiles_apart(gridDim.y / job_.together),
          rank(blockIdx.y % job_.together),
          begin(rank * job_.steps / job_.together),
          end((rank + 1) * job_.steps / job_.together) {}

    // A tile is 256 rows of w that follow each other, or 128 gates and their ups: in either case the two boxes in this order.
    __device__ __forceinline__ int32_t box_row(uint32_t tile, uint32_t box) const {
        const bool gated = job.args.gated;
        return static_cast<int32_t>(tile * (gated ? kBoxRows : kTileRows) + box * (gated ? job.args.w.rows / 2 : kBoxRows));
    }
    /// A thread's two rows in the stage: wgmma's rows g and g + 8 of its warp, so that a gate and its up meet in a thread.
    __device__ __forceinline__ uint32_t own_row(uint32_t thread) const { return thread / 32 * (job.args.gated ? 8 : 16) + thread % 32 / 4; }
    __device__ __forceinline__ uint32_t rows_apart() const { return job.args.gated ? kBoxRows : 8; }
};

/// A step of a block's part, the stage of the ring that holds it, and how often the ring has gone round (its parity).
struct Cursor {
    const Place& place;
    uint32_t tile, k, stage = 0, phase = 0;

    __device__ __forceinline__ explicit Cursor(const Place& place_) : place(place_), tile(place_.first_tile), k(place_.begin) {}

    __device__ __forceinline__ bool valid() const { return tile < place.job.tiles; }
    __device__ __forceinline__ void advance() {
        if (++k == place.end) k = place.begin, tile += place.tiles_apart;
        if (++stage == place.job.stages) stage = 0, phase ^= 1;
    }
    __device__ __forceinline__ uint32_t full() const { return ptx::shared_address(&place.barriers.full[stage]); }
    __device__ __forceinline__ uint32_t empty() const { return ptx::shared_address(&place.barriers.empty[stage]); }
};

/// One thread: all weights of the block.
template <class F, int kN>
__device__ __forceinline__ void copy_weights(const Place& place, const Maps& maps) {
    using C = Config<F, kN>;
    for (Cursor at(place); at.valid(); at.advance()) {
        const uint32_t stage = place.ring + at.stage * C::kStageBytes, full = at.full();
        const auto k = static_cast<int32_t>(at.k);
        ptx::barrier_wait(at.empty(), at.phase ^ 1);
        ptx::barrier_arrive_expect(full, C::kCopiedBytes);
#pragma unroll
        for (uint32_t box = 0; box < 2; ++box) {
            const int32_t row = place.box_row(at.tile, box);
            const uint32_t first = box * kBoxRows;  // in the stage
            ptx::copy_box(stage + first * kStepBytes, &maps.low, full, k * static_cast<int32_t>(kStepBytes / 2), row, 0);
            if constexpr (C::S::kHighRow > 0)
                ptx::copy_box(stage + C::kHighAt + first * C::S::kHighRow, &maps.high, full, k * static_cast<int32_t>(C::S::kHighRow / 2),
                              row, 0);
            if constexpr (C::S::kScaleRow > 0)
                ptx::copy_box(stage + C::kScalesAt + first * C::kScaleBox, &maps.scales, full, static_cast<int32_t>(C::scale_box(at.k)),
                              row, 0);
        }
    }
}

/// One thread: x, of which no more is asked for before the previous kernel has ended.
template <class F, int kN>
__device__ __forceinline__ void copy_x_boxes(const Place& place, const Maps& maps) {
    using C = Config<F, kN>;
    for (Cursor at(place); at.valid(); at.advance()) {
        const uint32_t to = place.ring + at.stage * C::kStageBytes + C::kXAt, full = at.full();
        ptx::barrier_wait(at.empty(), at.phase ^ 1);
        ptx::barrier_arrive_expect(full, 4 * kXBoxBytes);
#pragma unroll
        for (uint32_t t = 0; t < 4; ++t)
            ptx::copy_box(to + t * kXBoxesApart, &maps.x, full, static_cast<int32_t>(at.k * C::S::kCols + t * kXBoxColumns),
                          static_cast<int32_t>(place.pass * kN), 0);
    }
}

/// One of kXWarps warps: x, or half of it, for every third step, so that several steps' are on their way at a time. Rows beyond the last and
/// columns beyond the last become zeros.
template <class F, int kN>
__device__ __forceinline__ void copy_x(const Place& place, uint32_t warp) {
    using C = Config<F, kN>;
    using S = Step<F>;
    constexpr uint32_t kItems = kN * 2 * S::kEights;  // of a step: four eights of a row, one of each t
    constexpr uint32_t kWorkers = kItems < 32 * C::kXPair ? kItems : 32 * C::kXPair, kOfLane = kItems / kWorkers;
    constexpr uint32_t kMost = kN > 32 ? 4 : 2, kTogether = kOfLane < kMost ? kOfLane : kMost;  // as registers allow
    // Not more steps than the ring has stages: who waits for a stage must not be more than one round behind.
    const uint32_t under_way = min(C::kXSteps, place.job.stages);
    if (warp / C::kXPair >= under_way) return;
    const SmallBatchArgs& args = place.job.args;
    const uint32_t lane = threadIdx.x % 32, worker = warp % C::kXPair * 32 + lane;
    Cursor at(place);
    for (uint32_t n = 0; n < warp / C::kXPair; ++n) at.advance();
    while (at.valid()) {
        const uint32_t to = place.ring + at.stage * C::kStageBytes + C::kXAt;
        ptx::barrier_wait(at.empty(), at.phase ^ 1);
#pragma unroll
        for (uint32_t first = worker < kWorkers ? 0 : kOfLane; first < kOfLane; first += kTogether) {
            uint4 own[kTogether][4];
            // Two eights that are neighbours, then the next row: whole sectors are read, and no bank is written twice.
            const auto eight_of = [&](uint32_t m) { return ((first + m) * kWorkers + worker) / 2 / kN * 2 + worker % 2; };
            const auto row_of = [&](uint32_t m) { return ((first + m) * kWorkers + worker) / 2 % kN; };
#pragma unroll
            for (uint32_t m = 0; m < kTogether; ++m) {
#pragma unroll
                for (uint32_t t = 0; t < 4; ++t) {
                    const uint32_t row = place.pass * kN + row_of(m), column = at.k * S::kCols + (t * 2 * S::kEights + eight_of(m)) * 8;
                    const bool valid = row < args.rows && column < args.w.cols;
                    const uint16_t* from = static_cast<const uint16_t*>(args.x) + uint64_t{row} * args.w.cols + column;
                    own[m][t] = valid ? __ldcg(reinterpret_cast<const uint4*>(from)) : uint4{};
                }
            }
#pragma unroll
            for (uint32_t m = 0; m < kTogether; ++m) {
                const uint4(&v)[4] = own[m];
                const uint4 pieces[4] = {{v[0].x, v[1].x, v[2].x, v[3].x},
                                         {v[0].y, v[1].y, v[2].y, v[3].y},
                                         {v[0].z, v[1].z, v[2].z, v[3].z},
                                         {v[0].w, v[1].w, v[2].w, v[3].w}};
#pragma unroll
                for (uint32_t j = 0; j < 4; ++j) ptx::store_shared(to + wgmma_x_offset(kN, row_of(m), eight_of(m), j), pieces[j]);
            }
        }
        ptx::fence_async_proxy();
        __syncwarp();
        if (lane == 0) ptx::barrier_arrive(at.full());
        for (uint32_t n = 0; n < under_way; ++n) at.advance();
    }
}

/// Issues the products of a stage, this thread's rows `row` and row + apart, added to the sums; they have ended when this returns.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply_stage(uint32_t stage, [[maybe_unused]] uint32_t k, uint32_t row, uint32_t apart,
                                               float (&sums)[kN / 2]) {
    using C = Config<F, kN>;
    using S = Step<F>;
    using Product = wgmma::Product<kN, T>;
    constexpr int kEights = static_cast<int>(S::kEights);
    const uint32_t t = threadIdx.x % 4;
    const uint64_t x = wgmma::descriptor<64>(stage + C::kXAt, 16);

    Extras<F> extras[2];
    uint32_t scales_at = stage + C::kScalesAt;
    if constexpr (S::kScaleRow < C::kScaleBox) scales_at += k * S::kScaleRow % C::kScaleBox;
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t own = row + apart * h;
        extras[h].load_from(stage + C::kHighAt + own * S::kHighRow, scales_at + own * C::kScaleBox, t);
    }
    Words low[2];
    const auto load_low = [&](int q) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) low[h] = ptx::load_shared<Words>(stage + wgmma_low_offset(row + apart * h, 2 * t + q));
    };
    load_low(0);
    PairTable<F, kN> pairs[2];  // of the next eight: on their way while this one's products are issued
    const uint32_t own_pairs = memory_begin() + threadIdx.x % 32 * 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) pairs[h].look_up(low[h].w[0], own_pairs);
    uint32_t w[2][2][4];  // of this eight and of the one before, whose products are under way
    wgmma::pin(sums);
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i) {
        const int q = i / kEights, e = i % kEights, u = S::kLaneUnits == 2 ? q : 0;
        uint32_t unpacked[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) pairs[h].template unpack<T>(low[h], extras[h], e, u, unpacked[h]);
        if (e + 1 == kEights && q == 0) load_low(1);
#pragma unroll
        for (int h = 0; h < 2; ++h)
            if (i + 1 < 2 * kEights) pairs[h].look_up(low[h].w[(e + 1) % kEights], own_pairs);
        if (i >= 2) wgmma::wait<1>();
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            uint32_t (&a)[4] = w[i % 2][s];
            a[0] = unpacked[0][2 * s];
            a[1] = unpacked[1][2 * s];
            a[2] = unpacked[0][2 * s + 1];
            a[3] = unpacked[1][2 * s + 1];
            wgmma::pin(a);
        }
        wgmma::fence();
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const int deep = 2 * i + s;  // which 16 columns
            const uint64_t tile = wgmma::advance(x, deep / 4 * kN * 128 + deep % 4 * 32);
            Product::template registers<false>(sums, w[i % 2][s], tile, 1);
        }
        wgmma::commit();
    }
    wgmma::wait<0>();
    wgmma::pin(sums);
}

/// The products of a stage that are a warp's: two warps that are neighbours share 32 rows, in two fragments that begin at rows[0] and
/// rows[1], and each has one of the two units of every lane there, so that what it reads of x serves twice. Added to the sums.
template <class F, class T>
__device__ __forceinline__ void multiply_units(uint32_t stage, [[maybe_unused]] uint32_t k, const uint32_t (&rows)[2], uint32_t apart,
                                               float (&sums)[2][8]) {
    using C = Config<F, 16>;
    using S = Step<F>;
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, half = threadIdx.x / 32 % 2;
    Extras<F, 1> extras[2][2];
    Words low[2][2];
    PairTable<F, 16> pairs[2][2];  // of the next eight: on their way while this one is multiplied
    const uint32_t own_pairs = memory_begin() + lane * 4;
    uint32_t scales_at = stage + C::kScalesAt;
    if constexpr (S::kScaleRow < C::kScaleBox) scales_at += k * S::kScaleRow % C::kScaleBox;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint32_t row = rows[f] + apart * h;
            low[f][h] = ptx::load_shared<Words>(stage + wgmma_low_offset(row, 2 * t + half));
            extras[f][h].load_from(stage + C::kHighAt + row * S::kHighRow, scales_at + row * C::kScaleBox, 2 * t + half);
        }
    }
#pragma unroll
    for (int f = 0; f < 2; ++f) {
#pragma unroll
        for (int h = 0; h < 2; ++h) pairs[f][h].look_up(low[f][h].w[0], own_pairs);
    }
    const uint32_t x = stage + C::kXAt + mma_x_offset(t, g, 4 * half);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        uint32_t w[2][2][4];
#pragma unroll
        for (int f = 0; f < 2; ++f) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                pairs[f][h].template unpack<T>(low[f][h], extras[f][h], e, 0, w[f][h]);
                if (e < 3) pairs[f][h].look_up(low[f][h].w[(e + 1) % 4], own_pairs);
            }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const Words own_x = ptx::load_shared<Words>((x ^ e * 16) + n * 8 * 128);
#pragma unroll
            for (int s = 0; s < 2; ++s) {
#pragma unroll
                for (int f = 0; f < 2; ++f) {
                    const uint32_t a[4] = {w[f][0][2 * s], w[f][1][2 * s], w[f][0][2 * s + 1], w[f][1][2 * s + 1]};
                    ptx::mma_16x8x16<T>(reinterpret_cast<float (&)[4]>(sums[f][4 * n]), a, own_x.w[2 * s], own_x.w[2 * s + 1]);
                }
            }
        }
    }
}

/// Two warps that have summed half of the units each for two fragments: each gets the other's sums of its own fragment. They do it
/// where their rows' weights were, `at`, which both have read.
__device__ __forceinline__ void exchange_halves(uint32_t at, const float (&both)[2][8], float (&sums)[8]) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, half = warp % 2, barrier = 2 + warp / 2;
    ptx::named_sync(barrier, 64);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float other[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            other[n] = half == 0 ? both[1][4 * i + n] : both[0][4 * i + n];
            sums[4 * i + n] = half == 0 ? both[0][4 * i + n] : both[1][4 * i + n];
        }
        ptx::store_shared(at + ((2 * i + 1 - half) * 32 + lane) * 16, reinterpret_cast<const uint4&>(other));
    }
    ptx::named_sync(barrier, 64);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float4 more = ptx::load_shared<float4>(at + ((2 * i + half) * 32 + lane) * 16);
        sums[4 * i] += more.x;
        sums[4 * i + 1] += more.y;
        sums[4 * i + 2] += more.z;
        sums[4 * i + 3] += more.w;
    }
    ptx::fence_async_proxy();
}

/// Sums of gate `row` and of its up, rows n and n + 1 of x, to y.
template <class T>
__device__ __forceinline__ void write_gated(const SmallBatchArgs& args, uint32_t row, uint32_t n, const float (&sums)[4]) {
    const auto bias = [&](uint32_t r) { return args.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(args.bias)[r]); };
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
        if (n + i >= args.rows) continue;
        const float value = gated(args.activation, sums[i] + bias(row), sums[2 + i] + bias(args.w.rows / 2 + row));
        static_cast<T*>(args.y)[uint64_t{n + i} * args.y_stride + row] = rounded<T>(value);
    }
}

/// Float4 number `vector` of a tile's sums (of a thread's eight columns of x, all threads; then of its next eight) to y.
template <class F, class T, int kN>
__device__ __forceinline__ void write_vector(const Place& place, uint32_t tile, uint32_t vector, const float (&sums)[4]) {
    using C = Config<F, kN>;
    const uint32_t i = vector / C::kConsumers, thread = vector % C::kConsumers, n = place.pass * kN + 8 * i + thread % 4 * 2;
    const SmallBatchArgs& args = place.job.args;
    if (args.gated)
        write_gated<T>(args, tile * kBoxRows + place.own_row(thread), n, sums);
    else
        write_sums<T>(args, tile * kTileRows + place.own_row(thread), n, sums);
}

/// Adds up the sums of a cluster's blocks, in their order, each block a part of them.
template <class F, class T, int kN>
__device__ __forceinline__ void add_up(const Place& place, uint32_t tile, const float (&sums)[kN / 2]) {
    using C = Config<F, kN>;
    ptx::named_sync(1, C::kConsumers);  // nobody reads the ring any more
#pragma unroll
    for (int i = 0; i < kN / 8; ++i) {
        const float4 own = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
        ptx::store_shared(place.ring + (i * C::kConsumers + threadIdx.x) * 16, reinterpret_cast<const uint4&>(own));
    }
    ptx::cluster_sync();
    const uint32_t end = (place.rank + 1) * C::kVectors / place.job.together;
    for (uint32_t vector = place.rank * C::kVectors / place.job.together + threadIdx.x; vector < end; vector += C::kConsumers) {
        float all[4] = {};
#pragma unroll 8
        for (uint32_t rank = 0; rank < place.job.together; ++rank) {
            const float4 more = ptx::load_of_cluster(place.ring + vector * 16, rank);
            all[0] += more.x;
            all[1] += more.y;
            all[2] += more.z;
            all[3] += more.w;
        }
        write_vector<F, T, kN>(place, tile, vector, all);
    }
    ptx::cluster_sync();  // the others may still read
}

/// 16 warps.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply(const Place& place) {
    using C = Config<F, kN>;
    float sums[kN / 2] = {};
    const uint32_t row = place.own_row(threadIdx.x), apart = place.rows_apart();
    [[maybe_unused]] const uint32_t rows[2] = {place.own_row(threadIdx.x & ~32u), place.own_row(threadIdx.x | 32u)};
    [[maybe_unused]] float both[2][8] = {};
    for (Cursor at(place); at.valid(); at.advance()) {
        const uint32_t stage = place.ring + at.stage * C::kStageBytes;
        const bool last = at.k + 1 == place.end;
        ptx::barrier_wait(at.full(), at.phase);
        if constexpr (C::kMma) {
            multiply_units<F, T>(stage, at.k, rows, apart, both);
            if (last) {
                exchange_halves(stage + place.own_row(threadIdx.x & ~63u) * kStepBytes, both, sums);
#pragma unroll
                for (int i = 0; i < 16; ++i) both[i / 8][i % 8] = 0.0f;
            }
            __syncwarp();
        } else {
            multiply_stage<F, T, kN>(stage, at.k, row, apart, sums);
        }
        if (threadIdx.x % 32 == 0) ptx::barrier_arrive(at.empty());
        if (!last) continue;
        if (place.job.together > 1) return add_up<F, T, kN>(place, at.tile, sums);  // a cluster has one tile
#pragma unroll
        for (int i = 0; i < kN / 8; ++i) {
            write_vector<F, T, kN>(place, at.tile, i * C::kConsumers + threadIdx.x,
                                   {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]});
        }
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
    }
}

/// Grid: (passes over the rows of x, blocks), in clusters of `together` blocks.
template <class F, class T, int kN>
__global__ void __launch_bounds__(Config<F, kN>::kThreads, 1)
    multiply_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Job job) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using C = Config<F, kN>;
    __shared__ Barriers barriers;
    let_next_start();
    const uint32_t ring = memory_begin() + PairTable<F, kN>::kBytes;
    const Place place(job, barriers, ring);
    PairTable<F, kN>::fill(memory_begin(), threadIdx.x, C::kThreads);
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < job.stages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&barriers.full[stage]), 1 + C::kXPair);
            ptx::barrier_init(ptx::shared_address(&barriers.empty[stage]), C::kWarps);
        }
        ptx::barrier_init_fence();
    }
    __syncthreads();
    const uint32_t warp = threadIdx.x / 32;
    if (warp == C::kWarps + C::kXWarps) {
        if (threadIdx.x % 32 == 0) copy_weights<F, kN>(place, maps);
        return;
    }
    await_previous();
    if (warp >= C::kWarps) {
        if constexpr (C::kMma) {
            if (threadIdx.x % 32 == 0) copy_x_boxes<F, kN>(place, maps);
        } else {
            copy_x<F, kN>(place, warp - C::kWarps);
        }
    } else
        multiply<F, T, kN>(place);
#endif
}

}  // namespace dca::cuda::few::sm90
