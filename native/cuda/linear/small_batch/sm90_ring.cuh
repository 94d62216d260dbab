// What warps of the kernel with few rows on Hopper (sm90.cuh) share: the ring of stages in shared memory, who has which part of a
// job, and the warps that fill the ring.
#pragma once

#include <algorithm>

#include "cuda/device/wgmma.cuh"
#include "cuda/linear/small_batch/pair_table.cuh"
#include "cuda/linear/small_batch/small_batch.cuh"

namespace dca::cuda::few::sm90 {

/// kN: rows of x that are multiplied in one pass.
template <class F, int kN>
struct Config {
    using S = Step<F>;
    /// Whether mma multiplies and the copy engine brings x, too.
    static constexpr bool kMma = kN <= 32 && F::kLowBits == 4;
    static constexpr uint32_t kFragments = kMma ? 2 : 1;  // of 16 rows of weights, of a warp
    static constexpr uint32_t kWarps = kTileRows / 16 / kFragments, kConsumers = 32 * kWarps;
    // Warps that bring x: of a step, of all steps under way. The sums of many rows leave no registers for more.
    static constexpr uint32_t kXPair = kMma || kN > 32 ? 1 : 2, kXSteps = kMma ? 1 : 3, kXWarps = kXSteps * kXPair;
    static constexpr uint32_t kThreads = kConsumers + 32 * (kXWarps + 1);

    // A stage: low plane, x, high plane, scales. The copy engine moves 16 bytes of a row at least.
    static constexpr uint32_t kScaleBox = S::kScaleRow == 0 ? 0 : std::max(16u, S::kScaleRow);
    /// Where the box with a step's scales begins in a row, in halves: at a multiple of 16 bytes, which some steps share.
    static __device__ __forceinline__ uint32_t scale_box(uint32_t k) { return k * S::kScaleRow / kScaleBox * (kScaleBox / 2); }
    static constexpr uint32_t kXAt = kTileRows * kStepBytes,
                              kXBytes = kMma ? (4 * x_boxes_apart(kN) + 1023) / 1024 * 1024 : kN * S::kCols * 2;
    static constexpr uint32_t kHighAt = kXAt + kXBytes;
    static constexpr uint32_t kScalesAt = kHighAt + kTileRows * S::kHighRow, kStageBytes = kScalesAt + kTileRows * kScaleBox;
    static constexpr uint32_t kCopiedBytes = kTileRows * (kStepBytes + S::kHighRow + kScaleBox);
    static_assert(kHighAt % 1024 == 0 && kStageBytes % 1024 == 0, "tiles that are swizzled start at multiples of 1024 bytes");
    static constexpr uint32_t kLanes = 2 * kTileRows;      // of all fragments
    static constexpr uint32_t kVectors = kLanes * kN / 8;  // float4 of a tile's sums
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
        ptx::barrier_arrive_expect(full, 4 * x_box_bytes(kN));
#pragma unroll
        for (uint32_t t = 0; t < 4; ++t)
            ptx::copy_box(to + t * x_boxes_apart(kN), &maps.x, full, static_cast<int32_t>(at.k * C::S::kCols + t * kXBoxColumns),
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

}  // namespace dca::cuda::few::sm90
