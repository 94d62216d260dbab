// The kernel of products with few rows on Hopper: y (+)= x wᵀ, as in small_batch.cuh and with its split of the work, but every
// role has its own warps, so that neither copies nor barriers cost those that multiply any instructions:
//   one thread     has the copy engine fill a ring of stages with weights, from before the previous kernel's end on: as much as
//                  the ring holds is there when x comes
//   some warps     bring x, in the order in which wgmma reads it (layout.h); one thread, where mma multiplies (sm90_mma.cuh)
//   16 warps       unpack 16 rows of weights each in registers, which are the left operand; x is the right one
// Blocks stay for the whole product. A matrix of few tiles is cut along its columns as well: a cluster of blocks has a tile, and
// each of them adds up a part of its rows from the shared memory of all.
#pragma once

#include "cuda/linear/activation.cuh"
#include "cuda/linear/small_batch/sm90_mma.cuh"
#include "cuda/linear/small_batch/sm90_wgmma.cuh"

namespace dca::cuda::few::sm90 {

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
    const uint32_t i = vector / C::kLanes, thread = vector % C::kLanes, n = place.pass * kN + 8 * i + thread % 4 * 2;
    const SmallBatchArgs& args = place.job.args;
    if (args.gated)
        write_gated<T>(args, tile * kBoxRows + place.own_row(thread), n, sums);
    else
        write_sums<T>(args, tile * kTileRows + place.own_row(thread), n, sums);
}

/// This thread's lane of its warp's fragment f, among all lanes of all fragments.
template <uint32_t kFragments>
__device__ __forceinline__ uint32_t lane_of_fragment(uint32_t f) {
    return (threadIdx.x / 32 * kFragments + f) * 32 + threadIdx.x % 32;
}

/// Adds up the sums of a cluster's blocks, in their order, each block a part of them.
template <class F, class T, int kN>
__device__ __forceinline__ void add_up(const Place& place, uint32_t tile, const float (&sums)[Config<F, kN>::kFragments][kN / 2]) {
    using C = Config<F, kN>;
    ptx::named_sync(1, C::kConsumers);  // nobody reads the ring any more
#pragma unroll
    for (uint32_t f = 0; f < C::kFragments; ++f) {
#pragma unroll
        for (int i = 0; i < kN / 8; ++i) {
            const float4 own = {sums[f][4 * i], sums[f][4 * i + 1], sums[f][4 * i + 2], sums[f][4 * i + 3]};
            ptx::store_shared(place.ring + (i * C::kLanes + lane_of_fragment<C::kFragments>(f)) * 16, reinterpret_cast<const uint4&>(own));
        }
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

/// The warps that multiply.
template <class F, class T, int kN>
__device__ __forceinline__ void multiply(const Place& place) {
    using C = Config<F, kN>;
    constexpr uint32_t kFragments = C::kFragments;
    float sums[kFragments][kN / 2] = {};
    uint32_t rows[kFragments];
#pragma unroll
    for (uint32_t f = 0; f < kFragments; ++f) rows[f] = place.own_row(lane_of_fragment<kFragments>(f));
    const uint32_t apart = place.rows_apart();
    for (Cursor at(place); at.valid(); at.advance()) {
        const uint32_t stage = place.ring + at.stage * C::kStageBytes;
        ptx::barrier_wait(at.full(), at.phase);
        if constexpr (C::kMma) {
            MmaStage<F, T, kN>().multiply(stage, at.k, rows, apart, sums);
            __syncwarp();
        } else {
            multiply_stage<F, T, kN>(stage, at.k, rows[0], apart, sums[0]);
        }
        if (threadIdx.x % 32 == 0) ptx::barrier_arrive(at.empty());
        if (at.k + 1 != place.end) continue;
        if (place.job.together > 1) return add_up<F, T, kN>(place, at.tile, sums);  // a cluster has one tile
#pragma unroll
        for (uint32_t f = 0; f < kFragments; ++f) {
#pragma unroll
            for (int i = 0; i < kN / 8; ++i) {
                write_vector<F, T, kN>(place, at.tile, i * C::kLanes + lane_of_fragment<kFragments>(f),
                                       {sums[f][4 * i], sums[f][4 * i + 1], sums[f][4 * i + 2], sums[f][4 * i + 3]});
            }
#pragma unroll
            for (float& sum : sums[f]) sum = 0.0f;
        }
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
