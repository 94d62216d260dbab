// The kernel of products with few rows of 16-bit weights on Hopper: y (+)= x wᵀ. The copy engine brings weights and x as wgmma reads
// them, so that nothing passes through registers but sums.
//
// A block of threads has tiles of 64 weight rows, wgmma's left operand, and takes them in stages of 256 columns: 512 bytes of each
// row follow each other in memory, whose pages are opened for as much. Each of four warpgroups multiplies 64 of these columns; at a
// tile's end their sums are added up. One thread asks for weights from before the previous kernel's end on, as many as the ring
// holds. With tiles as small as these a matrix of 4096 rows is on half of the card's multiprocessors, which is enough to keep memory
// busy, and no sum is cut.
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
    static constexpr uint32_t kStages = kN > 32 ? 3 : kN > 16 ? 4 : 5;
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

/// A stage of the ring, and how often the ring has gone round (its parity).
template <class C>
struct Turn {
    uint32_t stage = 0, phase = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == C::kStages) stage = 0, phase ^= 1;
    }
};

/// One thread: all tiles' weights and x.
template <class C>
__device__ __forceinline__ void copy(Shared<C>& shared, const Maps& maps, bool gated, uint32_t tiles, uint32_t steps) {
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
    const uint32_t own = (tiles - blockIdx.y + gridDim.y - 1) / gridDim.y * steps, early = min(own, C::kStages);
    const auto tile_of = [&](uint32_t n) { return blockIdx.y + n / steps * gridDim.y; };
    for (uint32_t n = 0; n < early; ++n) weights(n, tile_of(n), n % steps);
    await_previous();
    for (uint32_t n = 0; n < early; ++n) x(n, n % steps);
    uint32_t tile = tile_of(early), step = early % steps;
    Turn<C> turn{early % C::kStages, early / C::kStages % 2};
    for (uint32_t n = early; n < own; ++n, turn.advance()) {
        ptx::barrier_wait(ptx::shared_address(&shared.empty[turn.stage]), turn.phase ^ 1);
        weights(turn.stage, tile, step);
        x(turn.stage, step);
        if (++step == steps) step = 0, tile += gridDim.y;
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

/// Adds up what the warpgroups found of a tile, in their order, and writes it.
template <class T, class C>
__device__ __forceinline__ void write_tile(Shared<C>& shared, const SmallBatchArgs& args, uint32_t tile, const float (&sums)[C::kN / 2]) {
    const uint32_t group = threadIdx.x / 128, lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
    for (uint32_t first = 0; first < C::kN; first += 16) {
        ptx::named_sync(1, C::kConsumers);  // what was there has been read
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) shared.sums[group][i / 4 * 8 + lane % 4 * 2 + i % 2][row + i / 2 % 2 * 8] = sums[first / 2 + i];
        ptx::named_sync(1, C::kConsumers);
        const auto total = [&](uint32_t n, uint32_t r) {
            float sum = shared.sums[0][n][r];
#pragma unroll
            for (uint32_t g = 1; g < C::kGroups; ++g) sum += shared.sums[g][n][r];
            return sum;
        };
        const uint32_t before = blockIdx.x * C::kN + first;  // rows of x
        if (args.gated) {
            const uint32_t n = threadIdx.x / C::kHalf, r = threadIdx.x % C::kHalf, gate = tile * C::kHalf + r;
            const uint32_t width = args.w.rows / 2;
            if (gate >= width || before + n >= args.rows) continue;
            const auto bias = [&](uint32_t of) { return args.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(args.bias)[of]); };
            const float value = gated(args.activation, total(n, r) + bias(gate), total(n, C::kHalf + r) + bias(width + gate));
            static_cast<T*>(args.y)[uint64_t{before + n} * args.y_stride + gate] = rounded<T>(value);
            continue;
        }
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t n = 8 * half + threadIdx.x / C::kRows, r = threadIdx.x % C::kRows;
            write_value<T>(args, tile * C::kRows + r, before + n, total(n, r));
        }
    }
}

/// Grid: (passes over the rows of x, blocks).
template <class T, int kN>
__global__ void __launch_bounds__(Config<kN>::kThreads, 1)
    multiply_kernel(const __grid_constant__ Maps maps, const __grid_constant__ SmallBatchArgs args, uint32_t tiles, uint32_t steps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using C = Config<kN>;
    extern __shared__ uint8_t memory[];
    Shared<C>& shared = *reinterpret_cast<Shared<C>*>((reinterpret_cast<uintptr_t>(memory) + 1023) & ~uintptr_t{1023});
    let_next_start();
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < C::kStages; ++stage) {
            ptx::barrier_init(ptx::shared_address(&shared.full[stage]), 1);
            ptx::barrier_init(ptx::shared_address(&shared.empty[stage]), C::kConsumers / 32);
        }
        ptx::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x >= C::kConsumers) {
        if (threadIdx.x == C::kConsumers) copy<C>(shared, maps, args.gated, tiles, steps);
        return;
    }
    await_previous();
    const uint32_t group = __shfl_sync(~0u, threadIdx.x / 128, 0);  // uniform, and known to be
    Turn<C> turn;
    for (uint32_t tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
        float sums[kN / 2];
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
        for (uint32_t step = 0; step < steps; ++step, turn.advance()) {
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
        write_tile<T, C>(shared, args, tile, sums);
    }
#endif
}

}  // namespace dca::cuda::few::dense
