// The kernel of products with few rows: y (+)= x wᵀ, tensor cores fed with weights that are unpacked in registers.
//
// w is mma's left operand (16 rows of it), x the right one (8 rows of it). A ring of stages in shared memory, each the next
// step's weights and x, is filled by asynchronous copies that run on from one tile to the next: memory never waits for the
// arithmetic. Blocks stay for the whole product, one a multiprocessor; layout.h says who has which part.
//
// What it should cost on an H100, on paper: a multiprocessor gets 4,096 four-bit weights in 173 cycles from memory. Unpacking
// them to f16 takes about 250 of the 692 instructions that could be issued meanwhile (to bf16 440); the products of 16, 32 and
// 64 rows keep the tensor cores busy for 50, 100 and 200 cycles, their reading of x the shared memory for 64, 64 and 128.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/vectors.cuh"
#include "cuda/linear/small_batch/small_batch.h"
#include "cuda/linear/small_batch/layout.h"
#include "cuda/linear/small_batch/unpack.cuh"

namespace dca::cuda::few {

constexpr uint32_t kFewestStages = 2, kMostStages = 6;
constexpr size_t kReservedBytes = 1024;  // of a block's shared memory, by CUDA

/// kTiles: of 8 rows of x, that are multiplied in one pass. With many, a warp takes 32 weight rows, so that what it reads of x
/// serves twice; with few, twice as many warps hide each other's waiting.
template <int kTiles>
struct Shape {
    static constexpr uint32_t kRows = 8 * kTiles;
    static constexpr int kFragments = kTiles >= 4 ? 2 : 1;  // of 16 weight rows, of a warp
    static constexpr uint32_t kWarpRows = 16 * kFragments;
    static constexpr uint32_t kWarps = kTileRows / kWarpRows, kThreads = 32 * kWarps;
    static constexpr uint32_t kPartVectors = kTileRows * kRows / 4;  // float4 of a tile's sums
};

struct Work {
    SmallBatchArgs args;
    Split split;
    uint32_t stages;  // of the ring
};

template <int kTiles>
cudaError_t launch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream);

/// A step of a block's run, and the stage of the ring that holds it.
struct Cursor {
    uint32_t tile, k, stage;

    __device__ Cursor(const Split& split, uint32_t step) : tile(step / split.steps), k(step % split.steps), stage(0) {}

    __device__ __forceinline__ void advance(const Work& work) {
        if (++k == work.split.steps) {
            k = 0;
            ++tile;
        }
        if (++stage == work.stages) stage = 0;
    }
};

/// Copies steps from global memory to the ring; all threads of the block together.
template <class F, int kTiles>
class Feed {
public:
    using S = Step<F>;
    using H = Shape<kTiles>;
    static constexpr uint32_t kStageBytes = S::stage_bytes(H::kRows);

    __device__ Feed(const Work& work, uint32_t ring, uint32_t first_row)
        : args_(work.args),
          ring_(ring),
          first_row_(first_row),
          row_bytes_(static_cast<uint32_t>(uint64_t{args_.w.cols} * F::kLowBits / 8)) {}

    __device__ __forceinline__ void weights(const Cursor& at) const {
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const uint32_t to = ring_ + at.stage * kStageBytes + warp * H::kWarpRows * S::kRowBytes;
        const uint32_t first = at.tile * kTileRows + warp * H::kWarpRows;
        const uint32_t offset = at.k * kStepBytes + lane % 8 * 16;
        // Four rows at a time, eight lanes each.
        const uint8_t* from = static_cast<const uint8_t*>(args_.w.low) + uint64_t{first + lane / 8} * row_bytes_ + offset;
        const uint32_t rows = offset < row_bytes_ && first < args_.w.rows ? args_.w.rows - first : 0;
#pragma unroll
        for (uint32_t e = 0; e < H::kWarpRows / 4; ++e) {
            const uint32_t row = e * 4 + lane / 8, owner = row % 8 * 4 + lane % 8 / 2;
            const bool valid = row < rows;
            ptx::copy_async<16>(to + 16 * low_slot(row / 8, lane % 2, owner), valid ? from : args_.w.low, valid);
            from += 4 * row_bytes_;
        }
        if constexpr (F::kQuantised) {
            if constexpr (F::kHighBytes > 0) extras<F::kHighBytes>(to + H::kWarpRows * kStepBytes, args_.w.high, first, at.k);
            extras<F::kScaleBytes>(to + H::kWarpRows * (kStepBytes + S::kHighRow), args_.w.scales, first, at.k);
        }
    }

    /// Rows beyond the last and columns beyond the last become zeros.
    __device__ __forceinline__ void x(const Cursor& at) const {
        const uint32_t to = ring_ + at.stage * kStageBytes + S::kWeightBytes, column = at.k * S::kCols;
#pragma unroll
        for (uint32_t i = threadIdx.x; i < H::kRows * S::kXChunks; i += H::kThreads) {
            const uint32_t n = i / S::kXChunks, c = i % S::kXChunks;
            const bool valid = first_row_ + n < args_.rows && column + 8 * c < args_.w.cols;
            const uint16_t* from = static_cast<const uint16_t*>(args_.x);
            if (valid) from += uint64_t{first_row_ + n} * args_.w.cols + column + 8 * c;
            ptx::copy_async<16>(to + 16 * x_slot<S::kXChunks>(n, c), from, valid);
        }
    }

    /// Asks for a step's low plane to be brought to the L2 cache.
    __device__ __forceinline__ void prefetch(const Cursor& at) const {
        const uint32_t row = at.tile * kTileRows + threadIdx.x;
        if (threadIdx.x >= kTileRows || row >= args_.w.rows) return;
        ptx::prefetch_l2(static_cast<const uint8_t*>(args_.w.low) + uint64_t{row} * row_bytes_ + at.k * kStepBytes);
    }

private:
    /// High bits or scales of the warp's rows, kBytes a unit, four units at a time (planes.h pads rows to that).
    template <uint32_t kBytes>
    __device__ __forceinline__ void extras(uint32_t to, const void* plane, uint32_t first, uint32_t k) const {
        constexpr uint32_t kGroups = S::kUnits / 4, kCopies = H::kWarpRows * kGroups;
        const uint32_t units = args_.w.cols / kUnit, padded = padded_units(args_.w.cols), lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t e = 0; e < (kCopies + 31) / 32; ++e) {
            const uint32_t copy = e * 32 + lane, row = copy / kGroups, unit = k * S::kUnits + copy % kGroups * 4;
            if (kCopies % 32 != 0 && copy >= kCopies) break;
            const bool valid = unit < units && first + row < args_.w.rows;
            const uint8_t* from = static_cast<const uint8_t*>(plane);
            if (valid) from += (uint64_t{first + row} * padded + unit) * kBytes;
            ptx::copy_async<4 * kBytes>(to + copy * 4 * kBytes, from, valid);
        }
    }

    const SmallBatchArgs& args_;
    uint32_t ring_, first_row_, row_bytes_;
};

/// A lane's sums: [fragment][tile] is mma's C, rows g and g + 8 of the weights, rows 2t and 2t + 1 of x.
template <int kTiles>
using Sums = float[Shape<kTiles>::kFragments][kTiles][4];

/// Adds the products of a stage to the sums.
template <class F, class T, int kTiles>
__device__ __forceinline__ void multiply_stage(uint32_t stage, Sums<kTiles>& sums) {
    using S = Step<F>;
    using H = Shape<kTiles>;
    constexpr int kFragments = H::kFragments;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t low_at = stage + warp * H::kWarpRows * S::kRowBytes;
    const uint32_t high_at = low_at + H::kWarpRows * kStepBytes, scales_at = high_at + H::kWarpRows * S::kHighRow;
    const uint32_t x_at = stage + S::kWeightBytes;

    Extras<F> extras[kFragments][2];
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint32_t row = 16 * f + 8 * h + g;
            extras[f][h].load_from(high_at + row * S::kHighRow, scales_at + row * S::kScaleRow, t);
        }
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
        Words low[kFragments][2];
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
#pragma unroll
            for (int h = 0; h < 2; ++h) low[f][h] = ptx::load_shared<Words>(low_at + 16 * low_slot(2 * f + h, q, lane));
        }
#pragma unroll
        for (int e = 0; e < static_cast<int>(S::kEights); ++e) {
            const int u = S::kLaneUnits == 2 ? q : 0;
            uint32_t w[kFragments][2][4];
#pragma unroll
            for (int f = 0; f < kFragments; ++f) {
#pragma unroll
                for (int h = 0; h < 2; ++h) unpack_eight<F, T>(low[f][h], extras[f][h], e, u, w[f][h]);
            }
            const uint32_t x_first = x_at + 16 * x_slot<S::kXChunks>(g, t * (S::kXChunks / 4) + q * S::kEights + e);
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile) {
                const Words x = ptx::load_shared<Words>(x_first + tile * 8 * S::kXChunks * 16);
#pragma unroll
                for (int s = 0; s < 2; ++s) {
#pragma unroll
                    for (int f = 0; f < kFragments; ++f) {
                        const uint32_t a[4] = {w[f][0][2 * s], w[f][1][2 * s], w[f][0][2 * s + 1], w[f][1][2 * s + 1]};
                        ptx::mma_16x8x16<T>(sums[f][tile], a, x.w[2 * s], x.w[2 * s + 1]);
                    }
                }
            }
        }
    }
}

/// Sums of a lane's fragment at `row` (and row + 8) of w, rows n and n + 1 of x, to y.
template <class T>
__device__ __forceinline__ void write_sums(const SmallBatchArgs& args, uint32_t row, uint32_t n, const float (&sums)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t r = row + i / 2 * 8, token = n + i % 2;
        if (r >= args.w.rows || token >= args.rows) continue;
        const uint64_t at = uint64_t{token} * args.y_stride + r;
        float value = sums[i];
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
}

/// Where float4 number `index` (fragment kTiles + tile) of a thread's sums of a slot lies.
template <int kTiles>
__device__ __forceinline__ float4* part(const Work& work, uint32_t pass, uint32_t slot, uint32_t index, uint32_t thread) {
    using H = Shape<kTiles>;
    return static_cast<float4*>(work.args.workspace) + (uint64_t{pass} * 2 * work.split.blocks + slot) * H::kPartVectors +
           index * H::kThreads + thread;
}

/// All but the newest `pending` groups of copies have arrived.
__device__ __forceinline__ void await_copies(uint32_t pending) {
    switch (pending) {
        case 0: ptx::copy_wait<0>(); return;
        case 1: ptx::copy_wait<1>(); return;
        case 2: ptx::copy_wait<2>(); return;
        case 3: ptx::copy_wait<3>(); return;
        default: ptx::copy_wait<kMostStages - 2>(); return;
    }
}

/// Grid: (passes over the rows of x, blocks); passes over the same weights run side by side, so that the L2 cache serves all but
/// the first.
template <class F, class T, int kTiles>
__global__ void __launch_bounds__(Shape<kTiles>::kThreads, 1) multiply_kernel(const __grid_constant__ Work work) {
    using H = Shape<kTiles>;
    extern __shared__ __align__(128) uint8_t shared[];
    let_next_start();
    const uint32_t pass = blockIdx.x, block = blockIdx.y, stages = work.stages;
    const uint32_t begin = work.split.begin(block), end = work.split.begin(block + 1), steps = work.split.steps;
    const uint32_t ring = ptx::shared_address(shared);
    const Feed<F, kTiles> feed(work, ring, pass * H::kRows);

    // Weights are there before the previous kernel ends, x is not. What is asked for now arrives before any x: one step of it,
    // the others come as far as the L2 cache.
    Cursor next(work.split, begin), at = next;
    feed.weights(next);
    Cursor ahead = next;
    for (uint32_t i = 1; i + 1 < stages && begin + i < end; ++i) {
        ahead.advance(work);
        feed.prefetch(ahead);
    }
    await_previous();
    feed.x(next);
    next.advance(work);
    ptx::copy_commit();
    uint32_t left = end - begin - 1;  // steps that are still to be copied
    const auto copy_next = [&] {
        if (left > 0) {
            feed.weights(next);
            feed.x(next);
            next.advance(work);
            --left;
        }
        ptx::copy_commit();
    };
    for (uint32_t i = 1; i + 1 < stages; ++i) copy_next();

    Sums<kTiles> sums = {};
    for (uint32_t step = begin; step < end; ++step, at.advance(work)) {
        await_copies(stages - 2);
        __syncthreads();  // everyone's copies have arrived, and everyone is done with the stage that is filled next
        copy_next();
        multiply_stage<F, T, kTiles>(ring + at.stage * Feed<F, kTiles>::kStageBytes, sums);
        if (step + 1 != end && at.k + 1 != steps) continue;

        const uint32_t tile = at.tile, warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const bool whole = begin <= tile * steps && end >= (tile + 1) * steps;
        const uint32_t slot = work.split.slot(block, tile);
#pragma unroll
        for (int f = 0; f < H::kFragments; ++f) {
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
                float (&c)[4] = sums[f][i];
                if (whole)
                    write_sums<T>(work.args, tile * kTileRows + warp * H::kWarpRows + 16 * f + g, pass * H::kRows + 8 * i + 2 * t, c);
                else
                    *part<kTiles>(work, pass, slot, f * kTiles + i, threadIdx.x) = {c[0], c[1], c[2], c[3]};
#pragma unroll
                for (float& value : c) value = 0.0f;
            }
        }
    }
}

/// Sums the parts of the tiles that several blocks shared, in the blocks' order. Grid: (passes, float4 of a thread, tiles) or,
/// `by_block`, (passes, float4 of a thread, blocks): each for the tile that the block of that number begins in.
template <class T, int kTiles>
__global__ void __launch_bounds__(Shape<kTiles>::kThreads) add_parts_kernel(const __grid_constant__ Work work, bool by_block) {
    using H = Shape<kTiles>;
    const Split& split = work.split;
    let_next_start();
    await_previous();
    const uint32_t tile = by_block ? split.begin(blockIdx.z) / split.steps : blockIdx.z;
    const uint32_t first = split.block_of(tile * split.steps), last = split.block_of((tile + 1) * split.steps - 1);
    if (first == last) return;
    if (by_block && blockIdx.z != first + 1) return;  // of those that look at the tile, one does it

    float sums[4] = {};
    for (uint32_t block = first; block <= last; ++block) {
        const float4 more = __ldcg(part<kTiles>(work, blockIdx.x, split.slot(block, tile), blockIdx.y, threadIdx.x));
        sums[0] += more.x;
        sums[1] += more.y;
        sums[2] += more.z;
        sums[3] += more.w;
    }
    const uint32_t warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    write_sums<T>(work.args, tile * kTileRows + warp * H::kWarpRows + 16 * (blockIdx.y / kTiles) + g,
                  blockIdx.x * H::kRows + 8 * (blockIdx.y % kTiles) + 2 * t, sums);
}

}  // namespace dca::cuda::few
