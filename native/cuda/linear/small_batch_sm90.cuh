// The kernel of products with few rows on Hopper: y (+)= x wᵀ, as in small_batch.cuh and with its split of the work, but every
// role has its own warps, so that neither copies nor barriers cost those that multiply any instructions:
//   one thread     has the copy engine fill a ring of stages with weights, from before the previous kernel's end on: as much as
//                  the ring holds is there when x comes
//   three warps    bring x, in the order in which wgmma reads it (small_batch_layout.h)
//   16 warps       unpack 16 rows of weights each in registers, which are wgmma's left operand; x is the right one
// The last of the blocks that share a tile to end with it adds up their parts, in the blocks' order.
#pragma once

#include <algorithm>

#include "cuda/device/wgmma.cuh"
#include "cuda/linear/small_batch.cuh"

namespace dca::cuda::few::sm90 {

/// kN: rows of x that are multiplied in one pass.
template <class F, int kN>
struct Config {
    using S = Step<F>;
    static constexpr uint32_t kWarps = kTileRows / 16, kConsumers = 32 * kWarps;
    static constexpr uint32_t kXWarps = 3;
    static constexpr uint32_t kThreads = kConsumers + 32 * (kXWarps + 1);

    // A stage: low plane, x, high plane, scales. The copy engine moves 16 bytes of a row at least.
    static constexpr uint32_t kScaleBox = S::kScaleRow == 0 ? 0 : std::max(16u, S::kScaleRow);
    static constexpr uint32_t kXAt = kTileRows * kStepBytes, kHighAt = kXAt + kN * S::kCols * 2;
    static constexpr uint32_t kScalesAt = kHighAt + kTileRows * S::kHighRow, kStageBytes = kScalesAt + kTileRows * kScaleBox;
    static constexpr uint32_t kCopiedBytes = kTileRows * (kStepBytes + S::kHighRow + kScaleBox);
    static_assert(kHighAt % 1024 == 0 && kStageBytes % 1024 == 0, "tiles that are swizzled start at multiples of 1024 bytes");
    static constexpr uint32_t kPartVectors = kTileRows * kN / 4;  // float4 of a tile's sums
};

constexpr uint32_t kMostStages = 8;
constexpr uint32_t kAlignment = 1024;

/// The matrix's planes for the copy engine: boxes of a tile's rows and a step's columns.
struct Maps {
    CUtensorMap low, high, scales;
};

struct Barriers {
    alignas(8) uint64_t full[kMostStages], empty[kMostStages];
    uint32_t last;  // whether the block is the last one of a tile that it shares
};

/// A step of a block's run, the stage of the ring that holds it, and how often the ring has gone round (its parity).
struct Cursor {
    uint32_t tile, k, stage = 0, phase = 0;

    __device__ Cursor(const Split& split, uint32_t step) : tile(step / split.steps), k(step % split.steps) {}

    __device__ __forceinline__ void advance(const Work& work) {
        if (++k == work.split.steps) k = 0, ++tile;
        if (++stage == work.stages) stage = 0, phase ^= 1;
    }
};

/// Where a block's steps and what it shares with its threads are.
struct Place {
    const Work& work;
    Barriers& barriers;
    uint32_t ring;  // shared memory
    uint32_t begin, end;
    uint32_t pass;

    __device__ __forceinline__ uint32_t full(const Cursor& at) const { return ptx::shared_address(&barriers.full[at.stage]); }
    __device__ __forceinline__ uint32_t empty(const Cursor& at) const { return ptx::shared_address(&barriers.empty[at.stage]); }
};

/// One thread: all weights of the block.
template <class F, int kN>
__device__ __forceinline__ void copy_weights(const Place& place, const Maps& maps) {
    using C = Config<F, kN>;
    Cursor at(place.work.split, place.begin);
    for (uint32_t step = place.begin; step < place.end; ++step, at.advance(place.work)) {
        const uint32_t stage = place.ring + at.stage * C::kStageBytes, full = place.full(at);
        const auto row = static_cast<int32_t>(at.tile * kTileRows), k = static_cast<int32_t>(at.k);
        ptx::barrier_wait(place.empty(at), at.phase ^ 1);
        ptx::barrier_arrive_expect(full, C::kCopiedBytes);
        ptx::copy_box(stage, &maps.low, full, k * static_cast<int32_t>(kStepBytes / 2), row, 0);
        if constexpr (C::S::kHighRow > 0)
            ptx::copy_box(stage + C::kHighAt, &maps.high, full, k * static_cast<int32_t>(C::S::kHighRow / 2), row, 0);
        if constexpr (C::S::kScaleRow > 0)
            ptx::copy_box(stage + C::kScalesAt, &maps.scales, full, k * static_cast<int32_t>(C::S::kScaleRow / 2), row, 0);
    }
}

/// One of kXWarps warps: x for every so manieth step, so that several steps' are on their way at a time. Rows beyond the last and
/// columns beyond the last become zeros.
template <class F, int kN>
__device__ __forceinline__ void copy_x(const Place& place, uint32_t warp) {
    using C = Config<F, kN>;
    using S = Step<F>;
    constexpr uint32_t kOfLane = kN * 2 * S::kEights / 32;  // items: four eights of a row, one of each t
    constexpr uint32_t kMost = kN > 16 ? 4 : 2;             // as registers allow: with few rows small kernels fit beside this one
    constexpr uint32_t kTogether = kOfLane < kMost ? kOfLane : kMost;
    const SmallBatchArgs& args = place.work.args;
    const uint32_t lane = threadIdx.x % 32;
    Cursor at(place.work.split, place.begin);
    for (uint32_t n = 0; n < warp; ++n) at.advance(place.work);
    for (uint32_t step = place.begin + warp; step < place.end; step += C::kXWarps) {
        const uint32_t to = place.ring + at.stage * C::kStageBytes + C::kXAt;
        ptx::barrier_wait(place.empty(at), at.phase ^ 1);
#pragma unroll
        for (uint32_t first = 0; first < kOfLane; first += kTogether) {
            uint4 own[kTogether][4];
            // Two eights that are neighbours, then the next row: whole sectors are read, and no bank is written twice.
            const auto eight_of = [&](uint32_t m) { return ((first + m) * 32 + lane) / 2 / kN * 2 + lane % 2; };
            const auto row_of = [&](uint32_t m) { return ((first + m) * 32 + lane) / 2 % kN; };
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
        if (lane == 0) ptx::barrier_arrive(place.full(at));
        for (uint32_t n = 0; n < C::kXWarps; ++n) at.advance(place.work);
    }
}

/// Issues the products of a stage, added to the sums; they have ended when this returns.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply_stage(uint32_t stage, float (&sums)[kN / 2]) {
    using C = Config<F, kN>;
    using S = Step<F>;
    using Product = wgmma::Product<kN, T>;
    constexpr int kEights = static_cast<int>(S::kEights);
    const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = threadIdx.x / 32 * 16 + g;
    const uint64_t x = wgmma::descriptor<64>(stage + C::kXAt, 16);

    Extras<F> extras[2];
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t own = row + 8 * h;
        extras[h].load_from(stage + C::kHighAt + own * S::kHighRow, stage + C::kScalesAt + own * C::kScaleBox, t);
    }
    Words low[2];
    uint32_t w[2][2][4];  // of this eight and of the one before, whose products are under way
    wgmma::pin(sums);
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i) {
        const int q = i / kEights, e = i % kEights, u = S::kLaneUnits == 2 ? q : 0;
        if (e == 0) {
#pragma unroll
            for (uint32_t h = 0; h < 2; ++h) low[h] = ptx::load_shared<Words>(stage + wgmma_low_offset(row + 8 * h, 2 * t + q));
        }
        uint32_t unpacked[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h) unpack_eight<F, T>(low[h], extras[h], e, u, unpacked[h]);
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

/// The sums of a tile to y, or to the workspace where blocks share it; whoever is last then takes all.
template <class F, class T, int kN>
__device__ __forceinline__ void finish_tile(const Place& place, uint32_t tile, const float (&sums)[kN / 2]) {
    using C = Config<F, kN>;
    const Split& split = place.work.split;
    const uint32_t lane = threadIdx.x % 32, block = blockIdx.y;
    const uint32_t row = tile * kTileRows + threadIdx.x / 32 * 16 + lane / 4, n = place.pass * kN + lane % 4 * 2;
    const uint32_t first = split.block_of(tile * split.steps), last = split.block_of((tile + 1) * split.steps - 1);
    if (first == last) {
#pragma unroll
        for (int i = 0; i < kN / 8; ++i)
            write_sums<T>(place.work.args, row, n + 8 * i, {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]});
        return;
    }
    const auto part = [&](uint32_t of_block, int i) {
        const uint64_t slot = uint64_t{place.pass} * 2 * split.blocks + split.slot(of_block, tile);
        return static_cast<float4*>(place.work.args.workspace) + slot * C::kPartVectors + i * C::kConsumers + threadIdx.x;
    };
#pragma unroll
    for (int i = 0; i < kN / 8; ++i) *part(block, i) = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
    ptx::named_sync(1, C::kConsumers);
    if (threadIdx.x == 0) {
        // A tile that is shared is the last one of the block that begins it.
        uint32_t* ticket = place.work.args.tickets + place.pass * split.blocks + first;
        __threadfence();  // after the barrier it stands for all threads' writes, and before the next for their reads
        place.barriers.last = atomicInc(ticket, last - first) == last - first;  // the last one leaves zero
        __threadfence();
    }
    ptx::named_sync(1, C::kConsumers);
    if (place.barriers.last == 0) return;
#pragma unroll
    for (int i = 0; i < kN / 8; ++i) {
        float all[4] = {};
#pragma unroll 4
        for (uint32_t other = first; other <= last; ++other) {
            const float4 more = __ldcg(part(other, i));
            all[0] += more.x;
            all[1] += more.y;
            all[2] += more.z;
            all[3] += more.w;
        }
        write_sums<T>(place.work.args, row, n + 8 * i, all);
    }
}

/// 16 warps.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply(const Place& place) {
    using C = Config<F, kN>;
    float sums[kN / 2] = {};
    Cursor at(place.work.split, place.begin);
    for (uint32_t step = place.begin; step < place.end; ++step, at.advance(place.work)) {
        ptx::barrier_wait(place.full(at), at.phase);
        multiply_stage<F, T, kN>(place.ring + at.stage * C::kStageBytes, sums);
        if (threadIdx.x % 32 == 0) ptx::barrier_arrive(place.empty(at));
        if (step + 1 != place.end && at.k + 1 != place.work.split.steps) continue;
        finish_tile<F, T, kN>(place, at.tile, sums);
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
    }
}

/// Grid as small_batch.cuh's.
template <class F, class T, int kN>
__global__ void __launch_bounds__(Config<F, kN>::kThreads, 1)
    multiply_kernel(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using C = Config<F, kN>;
    extern __shared__ uint8_t memory[];
    __shared__ Barriers barriers;
    let_next_start();
    const Split& split = work.split;
    const uint32_t ring = (ptx::shared_address(memory) + kAlignment - 1) / kAlignment * kAlignment;
    const Place place{work, barriers, ring, split.begin(blockIdx.y), split.begin(blockIdx.y + 1), blockIdx.x};
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < work.stages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&barriers.full[stage]), 2);
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
    if (warp >= C::kWarps)
        copy_x<F, kN>(place, warp - C::kWarps);
    else
        multiply<F, T, kN>(place);
#endif
}

}  // namespace dca::cuda::few::sm90
