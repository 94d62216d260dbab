// A matrix times one vector.
//
// Every block of threads first puts the whole vector into shared memory, normed where wanted:
// f32 for 16-bit weights, 16-bit integers with a scale per 32 (planes.h) for quantised ones.
// Then each warp takes pairs of rows. Weights reach it through a ring of its own in shared memory,
// filled by asynchronous copies several steps ahead: memory is kept busy while the warp computes,
// from one pair of rows to the next, and, where a kernel may start before its predecessor has
// ended, while the vector is still being made.
#pragma once

#include "cuda/matvec.h"
#include "cuda/vectors.cuh"

namespace dca::cuda::vec {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kResident = 2;         // kernels at a time on a multiprocessor, so that the next one can fill its rings
constexpr int kRows = 2;             // that a warp works on together
constexpr int kStepBytes = 512;      // of a row's low plane that a warp takes in one step, 16 a lane
constexpr int kVectors = 8;          // groups of four values that a thread holds while it norms
constexpr uint32_t kMaxNormed = 4 * kThreads * kVectors;

/// Rows of 16-bit floats. A piece is what a lane takes of a row in one step.
template <class T>
struct Dense {
    static constexpr int kWeights = 8;  // of a piece
    static constexpr int kUnits = 0;    // of a step that have parts beside the low plane
    static constexpr int kHighBytes = 0, kScaleBytes = 0;
    struct Vector {
        float4 x[2];
    };

    __host__ __device__ static size_t vector_bytes(uint32_t cols) { return cols * sizeof(float); }

    /// Chunk c of piece p lies at 16 (c · pieces + p): a warp reads 512 bytes in a row.
    __device__ static void stage(uint8_t* shared, uint32_t cols, uint32_t at, float4 values) {
        const uint32_t piece = at / 8, chunk = at % 8 / 4;
        reinterpret_cast<float4*>(shared)[chunk * (cols / 8) + piece] = values;
    }

    __device__ static Vector vector(const uint8_t* shared, uint32_t cols, uint32_t piece) {
        const float4* x = reinterpret_cast<const float4*>(shared);
        return {{x[piece], x[cols / 8 + piece]}};
    }

    __device__ static float dot(Words low, const uint8_t*, const uint8_t*, const Vector& vector) {
        const T* w = reinterpret_cast<const T*>(low.w);
        const float* x = reinterpret_cast<const float*>(vector.x);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += to_float(w[i]) * x[i];
        return sum;
    }
};

/// The planes of a quantised format.
template <class P>
struct Quantised {
    static constexpr int kWeights = Piece<P>::kWeights;
    static constexpr int kChunks = Piece<P>::kChunks;
    static constexpr int kUnits = 32 * kWeights / kUnit;
    static constexpr int kHighBytes = P::kHighWords * 4, kScaleBytes = P::kScaleHalves * 2;  // of a unit
    struct Vector {
        Words x[kChunks];
        ActivationBlock block;
    };

    __host__ __device__ static size_t vector_bytes(uint32_t cols) {
        return cols * sizeof(int16_t) + cols / kUnit * sizeof(ActivationBlock);
    }

    /// Eight neighbouring threads hold a block of 32.
    __device__ static void stage(uint8_t* shared, uint32_t cols, uint32_t at, float4 values) {
        const uint32_t mask = 0xffu << (threadIdx.x & 24);
        float largest = fmaxf(fmaxf(fabsf(values.x), fabsf(values.y)), fmaxf(fabsf(values.z), fabsf(values.w)));
#pragma unroll
        for (int step = 1; step < 8; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(mask, largest, step));
        const float inverse = largest > 0.0f ? 32767.0f / largest : 0.0f;
        const int q[4] = {__float2int_rn(values.x * inverse), __float2int_rn(values.y * inverse), __float2int_rn(values.z * inverse),
                          __float2int_rn(values.w * inverse)};
        int sum = q[0] + q[1] + q[2] + q[3];
        sum += __shfl_xor_sync(mask, sum, 1);
        sum += __shfl_xor_sync(mask, sum, 2);
        const int other = __shfl_xor_sync(mask, sum, 4);
        if (at % kUnit == 0) {
            ActivationBlock* blocks = reinterpret_cast<ActivationBlock*>(shared + cols * sizeof(int16_t));
            blocks[at / kUnit] = {largest / 32767.0f, {sum, other}, 0};
        }
        const uint32_t piece = at / kWeights, chunk = at % kWeights / 8;
        const uint2 packed = {__byte_perm(q[0], q[1], 0x5410), __byte_perm(q[2], q[3], 0x5410)};
        reinterpret_cast<uint2*>(shared)[2 * (chunk * (cols / kWeights) + piece) + at % 8 / 4] = packed;
    }

    __device__ static Vector vector(const uint8_t* shared, uint32_t cols, uint32_t piece) {
        Vector vector;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) vector.x[c] = reinterpret_cast<const Words*>(shared)[c * (cols / kWeights) + piece];
        const ActivationBlock* blocks = reinterpret_cast<const ActivationBlock*>(shared + cols * sizeof(int16_t));
        vector.block = blocks[piece / (kUnit / kWeights)];
        return vector;
    }

    /// `high` and `scales` are the piece's unit's.
    __device__ static float dot(Words low, const uint8_t* high, const uint8_t* scales, const Vector& vector) {
        Piece<P> piece;
        piece.low = low;
        if constexpr (kHighBytes == 4) piece.high[0] = *reinterpret_cast<const uint32_t*>(high);
        if constexpr (kHighBytes == 8) reinterpret_cast<uint2&>(piece.high) = *reinterpret_cast<const uint2*>(high);
#pragma unroll
        for (int i = 0; i < P::kScaleHalves; ++i) piece.scales[i] = reinterpret_cast<const uint16_t*>(scales)[i];
        return dot_piece<P>(piece, vector.x, vector.block);
    }
};

template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const int bytes = present ? kBytes : 0;  // the rest is filled with zeros
    if constexpr (kBytes == 16) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(kBytes), "r"(bytes) : "memory");
    }
}

__device__ __forceinline__ void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// All but the newest kGroups groups of this thread's copies have arrived.
template <int kGroups>
__device__ __forceinline__ void await_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// What one step of a warp takes of kRows rows.
template <class W>
struct Step {
    alignas(16) uint8_t low[kRows][kStepBytes];
    alignas(16) uint8_t high[kRows][W::kUnits * W::kHighBytes + (W::kHighBytes == 0)];
    alignas(16) uint8_t scales[kRows][W::kUnits * W::kScaleBytes + (W::kScaleBytes == 0)];
};

/// Fills a warp's ring, step by step along its rows and on to its next rows.
template <class W, bool kGated>
class Feed {
public:
    __device__ Feed(const Matrix& w) : w_(w), pieces_(w.cols / W::kWeights), lane_(threadIdx.x % 32), item_(first_item()) { enter(); }

    static __device__ uint32_t first_item() { return blockIdx.x + gridDim.x * (threadIdx.x / 32); }
    static __device__ uint32_t item_stride() { return gridDim.x * kWarps; }
    __device__ uint32_t items() const { return kGated ? w_.rows / 2 : (w_.rows + 1) / 2; }

    __device__ uint32_t row(uint32_t item, int r) const {
        if constexpr (kGated) return item + r * (w_.rows / 2);
        return min(2 * item + r, w_.rows - 1);
    }

    /// Starts the copies of the next step; without one, only the count of groups goes on.
    __device__ void next(Step<W>& step) {
        if (item_ < items()) {
            const bool present = piece_ < pieces_;
#pragma unroll
            for (int r = 0; r < kRows; ++r) copy_async<16>(step.low[r] + 16 * lane_, low_[r], present);
            if constexpr (W::kUnits > 0) next_extras(step);
            piece_ += 32;
            if (piece_ - lane_ < pieces_) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) low_[r] += kStepBytes;
            } else {
                item_ += item_stride();
                enter();
            }
        }
        close_group();
    }

private:
    static constexpr int kPairLanes = W::kUnits > 0 ? W::kUnits / 2 : 1;  // a row's high bits and scales: two units a lane

    __device__ void enter() {
        piece_ = lane_;
        if (item_ >= items()) return;
#pragma unroll
        for (int r = 0; r < kRows; ++r) low_[r] = static_cast<const uint8_t*>(w_.low) + (uint64_t{row(item_, r)} * pieces_ + lane_) * 16;
    }

    __device__ void next_extras(Step<W>& step) const {
        const int r = lane_ / kPairLanes;
        if (r >= kRows) return;
        const uint32_t pair = lane_ % kPairLanes;
        const uint32_t units = w_.cols / kUnit, unit = (piece_ - lane_) / 32 * W::kUnits + 2 * pair;
        const uint64_t at = uint64_t{row(item_, r)} * padded_units(w_.cols) + unit;
        if constexpr (W::kHighBytes > 0) {
            copy_async<2 * W::kHighBytes>(step.high[r] + pair * 2 * W::kHighBytes, static_cast<const uint8_t*>(w_.high) + at * W::kHighBytes, unit < units);
        }
        copy_async<2 * W::kScaleBytes>(step.scales[r] + pair * 2 * W::kScaleBytes, static_cast<const uint8_t*>(w_.scales) + at * W::kScaleBytes, unit < units);
    }

    const Matrix& w_;
    uint32_t pieces_, lane_, item_;
    uint32_t piece_;
    const uint8_t* low_[kRows];
};

/// Values at, at + 4 kThreads, ... of x as floats: all loads are on their way before the first is used.
template <class T>
__device__ __forceinline__ void load_vectors(const void* x, uint32_t first, uint32_t cols, float4 (&values)[kVectors]) {
#pragma unroll
    for (int n = 0; n < kVectors; ++n) {
        const uint32_t at = first + 4 * n * kThreads;
        values[n] = at < cols ? load_four(static_cast<const T*>(x) + at) : float4{};
    }
}

__device__ __forceinline__ void load_input(const MatvecArgs& args, uint32_t first, float4 (&values)[kVectors]) {
    switch (args.x_type) {
        case VectorType::F32: load_vectors<float>(args.x, first, args.w.cols, values); return;
        case VectorType::F16: load_vectors<__half>(args.x, first, args.w.cols, values); return;
        case VectorType::BF16: load_vectors<__nv_bfloat16>(args.x, first, args.w.cols, values); return;
    }
}

template <class W>
__device__ __forceinline__ void stage_vector(const MatvecArgs& args, uint8_t* shared) {
    const uint32_t cols = args.w.cols;
    float4 values[kVectors];
    if (args.norm != nullptr) {
        __shared__ float scratch[kWarps];
        load_vectors<float>(args.x, 4 * threadIdx.x, cols, values);
        float squares = 0.0f;
#pragma unroll
        for (const float4& v : values) squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const float scale = rsqrtf(block_sum(squares, scratch) / cols + args.epsilon);
#pragma unroll
        for (int n = 0; n < kVectors; ++n) {
            const uint32_t at = 4 * (threadIdx.x + n * kThreads);
            if (at >= cols) break;
            const float4 weight = *reinterpret_cast<const float4*>(args.norm + at), v = values[n];
            W::stage(shared, cols, at, {v.x * scale * weight.x, v.y * scale * weight.y, v.z * scale * weight.z, v.w * scale * weight.w});
        }
        return;
    }
    for (uint32_t first = 4 * threadIdx.x; first < cols; first += 4 * kThreads * kVectors) {
        load_input(args, first, values);
#pragma unroll
        for (int n = 0; n < kVectors; ++n) {
            const uint32_t at = first + 4 * n * kThreads;
            if (at < cols) W::stage(shared, cols, at, values[n]);
        }
    }
}

__device__ __forceinline__ void write_result(const MatvecArgs& args, uint32_t row, float value) {
    if (args.bias != nullptr) value += args.bias[row];
    switch (args.y_type) {
        case VectorType::F16: static_cast<__half*>(args.y)[row] = rounded<__half>(value); return;
        case VectorType::BF16: static_cast<__nv_bfloat16*>(args.y)[row] = rounded<__nv_bfloat16>(value); return;
        case VectorType::F32: break;
    }
    float* y = static_cast<float*>(args.y) + row;
    *y = args.add ? __ldcg(y) + value : value;
}

/// The vector is at the end of shared memory, behind kWarps rings of kSteps steps.
template <class W, bool kGated, int kSteps>
__global__ void __launch_bounds__(kThreads, kResident) matvec_kernel(const __grid_constant__ MatvecArgs args) {
    extern __shared__ __align__(16) uint8_t shared[];
    Step<W>* ring = reinterpret_cast<Step<W>*>(shared) + threadIdx.x / 32 * kSteps;
    uint8_t* vector = shared + sizeof(Step<W>) * kSteps * kWarps;
    let_next_start();
    Feed<W, kGated> feed(args.w);
#pragma unroll
    for (int step = 0; step + 1 < kSteps; ++step) feed.next(ring[step]);
    await_previous();
    stage_vector<W>(args, vector);
    __syncthreads();

    const uint32_t lane = threadIdx.x % 32;
    const uint32_t pieces = args.w.cols / W::kWeights;
    const uint32_t unit = W::kUnits == 32 ? lane : lane / 2;  // of the step, that this lane's piece is in
    int slot = 0;
    for (uint32_t item = feed.first_item(); item < feed.items(); item += feed.item_stride()) {
        float sums[kRows] = {};
        for (uint32_t first = 0; first < pieces; first += 32) {
            await_groups<kSteps - 2>();
            __syncwarp();  // every lane's copies have arrived, and every lane is done with the step before
            feed.next(ring[slot == 0 ? kSteps - 1 : slot - 1]);
            const uint32_t piece = first + lane;
            if (piece < pieces) {
                const typename W::Vector x = W::vector(vector, args.w.cols, piece);
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const Words low = *reinterpret_cast<const Words*>(ring[slot].low[r] + 16 * lane);
                    sums[r] += W::dot(low, ring[slot].high[r] + unit * W::kHighBytes, ring[slot].scales[r] + unit * W::kScaleBytes, x);
                }
            }
            slot = slot + 1 == kSteps ? 0 : slot + 1;
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
        if constexpr (kGated) {
            if (lane == 0) write_result(args, item, sums[0] / (1.0f + __expf(-sums[0])) * sums[1]);
        } else if (lane < kRows && 2 * item + lane < args.w.rows) {
            write_result(args, 2 * item + lane, lane == 0 ? sums[0] : sums[1]);
        }
    }
}

}  // namespace dca::cuda::vec
