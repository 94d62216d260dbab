// The kernel of products with few rows of 16-bit weights on Hopper: y (+)= x wᵀ. The copy engine brings weights and x as wgmma reads
// them, so that nothing passes through registers but sums.
//
// A block of threads has tiles of 64 weight rows, wgmma's left operand, and takes them in stages of 256 columns: 512 bytes of each
// row follow each other in memory, whose pages are opened for as much. Each of four warpgroups multiplies 64 of these columns; at a
// tile's end their sums are added up. One thread asks for weights from before the previous kernel's end on, as many as the ring
// holds. A matrix of few tiles is cut along its columns as well: a cluster of blocks has a tile, and each of them writes a part of
// it with the sums of all.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/vectors.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/linear/activation.cuh"
#include "cuda/linear/small_batch/sm90.h"

namespace dca::cuda::few::dense {

/// kN: rows of x that are multiplied in one pass.
template <int kN_>
struct Config {
    static constexpr uint32_t kN = kN_, kRows = sm90::kDenseRows, kHalf = kRows / 2;  // of weights; half of them are a tile's gates
    static constexpr uint32_t kGroups = 4, kGroupCols = 64, kCols = kGroups * kGroupCols;
    static constexpr uint32_t kConsumers = 128 * kGroups, kThreads = kConsumers + 32;
    static constexpr uint32_t kRowBytes = 2 * kGroupCols;  // that are swizzled
    static constexpr uint32_t kSliceBytes = kRows * kRowBytes, kXSliceBytes = kN * kRowBytes;
    static constexpr uint32_t kXAt = kGroups * kSliceBytes, kStageBytes = kXAt + kGroups * kXSliceBytes;
    static constexpr uint32_t kStages = kN > 32 ? 3 : 4;
    static constexpr uint32_t kSumStride = kRows + 1;  // floats; free of bank conflicts
};

/// Weights in boxes of a tile's rows, or of half as many gates and their ups, x in boxes of kN rows, 64 columns each.
struct Maps {
    CUtensorMap w, x;
};

template <class C>
struct Shared {
    alignas(1024) uint8_t ring[C::kStages][C::kStageBytes];
    alignas(8) uint64_t full[C::kStages], empty[C::kStages];
    float sums[C::kGroups][16][C::kSumStride];  // of 16 rows of x at a time
};

/// What a block multiplies: every so manieth tile, and of each tile's steps those in [begin, end).
struct Part {
    uint32_t tiles, together, first_tile, tiles_apart, rank, begin, end;

    /// `together` blocks have a tile.
    __device__ __forceinline__ Part(uint32_t tiles_, uint32_t steps, uint32_t together_)
        : tiles(tiles_),
          together(together_),
          first_tile(blockIdx.y / together),
          tiles_apart(gridDim.y / together),
          rank(blockIdx.y % together),
          begin(rank * steps / together),
          end((rank + 1) * steps / together) {}
};

/// A stage of the ring, and how often the ring has gone round (its parity).
template <class C>
struct Turn {
    uint32_t stage = 0, phase = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == C::kStages) stage = 0, phase ^= 1;
    }
};

/// One thread: the part's weights and x.
template <class C>
__device__ __forceinline__ void copy(Shared<C>& shared, const Maps& maps, bool gated, const Part& part) {
    const int32_t rows = gated ? C::kHalf : C::kRows;
    const auto weights = [&](uint32_t stage, uint32_t tile, uint32_t step) {
        const uint32_t full = ptx::shared_address(&shared.full[stage]), to = ptx::shared_address(shared.ring[stage]);
        const auto column = static_cast<int32_t>(step * C::kCols), row = static_cast<int32_t>(tile) * rows;
        ptx::barrier_arrive_expect(full, C::kStageBytes);
#pragma unroll
        for (int32_t group = 0; group < static_cast<int32_t>(C::kGroups); ++group)
            ptx::copy_box(to + group * C::kSliceBytes, &maps.w, full, column + group * static_cast<int32_t>(C::kGroupCols), row, 0);
    };
    const auto x = [&](uint32_t stage, uint32_t step) {
        const uint32_t full = ptx::shared_address(&shared.full[stage]), to = ptx::shared_address(shared.ring[stage]) + C::kXAt;
        const auto column = static_cast<int32_t>(step * C::kCols), row = static_cast<int32_t>(blockIdx.x * C::kN);
#pragma unroll
        for (int32_t group = 0; group < static_cast<int32_t>(C::kGroups); ++group)
            ptx::copy_box(to + group * C::kXSliceBytes, &maps.x, full, column + group * static_cast<int32_t>(C::kGroupCols), row, 0);
    };
    // The first stages' weights, then the previous kernel's x.
    const uint32_t steps = part.end - part.begin;
    const uint32_t own = (part.tiles - part.first_tile + part.tiles_apart - 1) / part.tiles_apart * steps, early = min(own, C::kStages);
    const auto tile_of = [&](uint32_t n) { return part.first_tile + n / steps * part.tiles_apart; };
    const auto step_of = [&](uint32_t n) { return part.begin + n % steps; };
    for (uint32_t n = 0; n < early; ++n) weights(n, tile_of(n), step_of(n));
    await_previous();
    for (uint32_t n = 0; n < early; ++n) x(n, step_of(n));
    uint32_t tile = tile_of(early), step = step_of(early);
    Turn<C> turn{early % C::kStages, early / C::kStages % 2};
    for (uint32_t n = early; n < own; ++n, turn.advance()) {
        ptx::barrier_wait(ptx::shared_address(&shared.empty[turn.stage]), turn.phase ^ 1);
        weights(turn.stage, tile, step);
        x(turn.stage, step);
        if (++step == part.end) step = part.begin, tile += part.tiles_apart;
    }
}

/// Sums of one value of y to there: of row r of w and row n of x.
template <class T>
__device__ __forceinline__ void write_value(const SmallBatchArgs& args, uint32_t r, uint32_t n, float value) {
    if (r >= args.w.rows || n >= args.rows) return;
    const uint64_t at = uint64_t{n} * args.y_stride + r;
    if (args.y_f32) {
        float* y = static_cast<float*>(args.y) + at;
        if (args.bias != nullptr) value += static_cast<const float*>(args.bias)[r];
        *y = args.add ? __ldcg(y) + value : value;
    } else {
        T* y = static_cast<T*>(args.y) + at;
        if (args.bias != nullptr) value += to_float(static_cast<const T*>(args.bias)[r]);
        *y = rounded<T>(args.add ? to_float(__ldcg(y)) + value : value);
    }
}

/// The same of gate r and its up.
template <class T>
__device__ __forceinline__ void write_gated(const SmallBatchArgs& args, uint32_t r, uint32_t n, float gate, float up) {
    const uint32_t width = args.w.rows / 2;
    if (r >= width || n >= args.rows) return;
    const auto bias = [&](uint32_t of) { return args.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(args.bias)[of]); };
    const float value = gated(args.activation, gate + bias(r), up + bias(width + r));
    static_cast<T*>(args.y)[uint64_t{n} * args.y_stride + r] = rounded<T>(value);
}

/// Adds up what the warpgroups of a tile's blocks found, in their order, and writes it, each block a part.
template <class T, class C>
__device__ __forceinline__ void write_tile(Shared<C>& shared, const SmallBatchArgs& args, const Part& part, uint32_t tile,
                                           const float (&sums)[C::kN / 2]) {
    const uint32_t group = threadIdx.x / 128, lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    const uint32_t width = args.gated ? C::kHalf : C::kRows, values = 16 * width;  // of y, of 16 rows of x
#pragma unroll
    for (uint32_t first = 0; first < C::kN; first += 16) {
        // What was there has been read.
        if (part.together == 1 || first == 0)
            ptx::named_sync(1, C::kConsumers);
        else
            ptx::cluster_sync();
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) shared.sums[group][i / 4 * 8 + lane % 4 * 2 + i % 2][row + i / 2 % 2 * 8] = sums[first / 2 + i];
        if (part.together == 1)
            ptx::named_sync(1, C::kConsumers);
        else
            ptx::cluster_sync();
        const auto total = [&](uint32_t n, uint32_t r) {
            float sum = 0.0f;
            for (uint32_t rank = 0; rank < part.together; ++rank) {
#pragma unroll
                for (uint32_t g = 0; g < C::kGroups; ++g) {
                    const float* own = &shared.sums[g][n][r];
                    sum += part.together == 1 ? *own : ptx::float_of_cluster(ptx::shared_address(own), rank);
                }
            }
            return sum;
        };
        const uint32_t before = blockIdx.x * C::kN + first, end = (part.rank + 1) * values / part.together;  // rows of x; values
        for (uint32_t value = part.rank * values / part.together + threadIdx.x; value < end; value += C::kConsumers) {
            const uint32_t n = value / width, r = value % width;
            if (args.gated)
                write_gated<T>(args, tile * width + r, before + n, total(n, r), total(n, width + r));
            else
                write_value<T>(args, tile * width + r, before + n, total(n, r));
        }
    }
    if (part.together > 1) ptx::cluster_sync();  // the others may still read
}

/// Grid: (passes over the rows of x, blocks), in clusters of `together` blocks; of more than one, which have one tile.
template <class T, int kN>
__global__ void __launch_bounds__(Config<kN>::kThreads, 1)
    multiply_kernel(const __grid_constant__ Maps maps, const __grid_constant__ SmallBatchArgs args, uint32_t tiles, uint32_t steps,
                    uint32_t together) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using C = Config<kN>;
    extern __shared__ uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
    let_next_start();
    const Part part(tiles, steps, together);
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < C::kStages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&shared.full[stage]), 1);
            ptx::barrier_init(ptx::shared_address(&shared.empty[stage]), C::kConsumers / 32);
        }
        ptx::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= C::kConsumers) {
        if (threadIdx.x == C::kConsumers) copy<C>(shared, maps, args.gated, part);
        return;
    }
    await_previous();
    const uint32_t group = __shfl_sync(~0u, threadIdx.x / 128, 0);  // uniform, and known to be
    Turn<C> turn;
    for (uint32_t tile = part.first_tile; tile < part.tiles; tile += part.tiles_apart) {
        float sums[kN / 2];
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
        for (uint32_t step = part.begin; step < part.end; ++step, turn.advance()) {
            const uint32_t stage = ptx::shared_address(shared.ring[turn.stage]);
            const uint64_t w = wgmma::descriptor<64>(stage + group * C::kSliceBytes, 16);
            const uint64_t x = wgmma::descriptor<64>(stage + C::kXAt + group * C::kXSliceBytes, 16);
            ptx::barrier_wait(ptx::shared_address(&shared.full[turn.stage]), turn.phase);
            wgmma::pin(sums);
            wgmma::fence();
#pragma unroll
            for (uint32_t deep = 0; deep < C::kGroupCols / 16; ++deep)
                wgmma::Product<kN, T>::shared(sums, wgmma::advance(w, 32 * deep), wgmma::advance(x, 32 * deep), 1);
            wgmma::commit();
            wgmma::wait<0>();
            wgmma::pin(sums);
            if (threadIdx.x % 32 == 0) ptx::barrier_arrive(ptx::shared_address(&shared.empty[turn.stage]));
        }
        write_tile<T, C>(shared, args, part, tile, sums);
    }
#endif
}

}  // namespace dca::cuda::few::dense
