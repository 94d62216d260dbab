// A matrix times one vector.
//
// Every block of threads first puts the whole vector into shared memory, normed where wanted:
// f32 for 16-bit weights, 16-bit integers with a scale per 32 (planes.h) for quantised ones.
// Then each warp takes rows, kRows at a time: a lane reads 16 bytes of each, kDepth times
// before it uses the first.
#pragma once

#include "cuda/matvec.h"
#include "cuda/vectors.cuh"

namespace dca::cuda::vec {

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 2;  // 64 registers a thread
constexpr int kWarps = kThreads / 32;
constexpr int kNormVectors = 8;              // groups of four values a thread holds while it norms
constexpr uint32_t kMaxNormed = 4 * kThreads * kNormVectors;

/// Weights are read once: they need not stay in L1.
__device__ __forceinline__ Words load_words(const void* from) {
    Words words;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.w[0]), "=r"(words.w[1]), "=r"(words.w[2]), "=r"(words.w[3])
                 : "l"(from));
    return words;
}

template <class T>
__device__ __forceinline__ T load_once(const void* from) {
    return __ldg(static_cast<const T*>(from));
}

/// How rows of 16-bit floats are read and multiplied.
template <class T>
struct Dense {
    static constexpr int kWeights = 8;  // of a piece
    static constexpr int kDepth = 4;
    using Loaded = Words;
    struct Vector {
        float4 x[2];
    };

    __host__ __device__ static size_t shared_bytes(uint32_t cols) { return cols * sizeof(float); }

    /// Where a lane reads in a row; batches lie 32 pieces apart.
    struct Cursor {
        const uint8_t* low;

        __device__ Cursor(const Matrix& w, uint32_t row, uint32_t piece)
            : low(static_cast<const uint8_t*>(w.low) + (uint64_t{row} * w.cols + 8 * piece) * sizeof(T)) {}
        __device__ Loaded load(int batch) const { return load_words(low + 512 * batch); }
        __device__ void advance(int batches) { low += 512 * batches; }
    };

    /// Chunk c of piece p lies at 16 (c · pieces + p): a warp reads 512 bytes in a row.
    __device__ static void stage(uint8_t* shared, uint32_t cols, uint32_t at, float4 values) {
        const uint32_t piece = at / 8, chunk = at % 8 / 4;
        reinterpret_cast<float4*>(shared)[chunk * (cols / 8) + piece] = values;
    }

    __device__ static Vector vector(const uint8_t* shared, uint32_t cols, uint32_t piece) {
        const float4* x = reinterpret_cast<const float4*>(shared);
        return {{x[piece], x[cols / 8 + piece]}};
    }

    __device__ static float dot(const Loaded& loaded, const Vector& vector) {
        const T* w = reinterpret_cast<const T*>(loaded.w);
        const float* x = reinterpret_cast<const float*>(vector.x);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += to_float(w[i]) * x[i];
        return sum;
    }
};

/// The same for the planes of a quantised format.
template <class P>
struct Quantised {
    static constexpr int kWeights = Piece<P>::kWeights;
    static constexpr int kChunks = Piece<P>::kChunks;
    static constexpr int kDepth = P::kGroups == 2 ? 1 : 2;  // what 64 registers hold
    using Loaded = Piece<P>;
    struct Vector {
        Words x[kChunks];
        ActivationBlock block;
    };

    __host__ __device__ static size_t shared_bytes(uint32_t cols) {
        return cols * sizeof(int16_t) + cols / kUnit * sizeof(ActivationBlock);
    }

    struct Cursor {
        static constexpr int kUnits = 32 * kWeights / kUnit;  // of a batch
        static constexpr int kHighStride = kUnits * P::kHighWords * 4, kScaleStride = kUnits * P::kScaleHalves * 2;
        const uint8_t* low;
        const uint8_t* high;
        const uint8_t* scales;

        __device__ Cursor(const Matrix& w, uint32_t row, uint32_t piece) {
            const uint64_t first = uint64_t{row} * (w.cols / kWeights) + piece, unit = first / (kUnit / kWeights);
            low = static_cast<const uint8_t*>(w.low) + 16 * first;
            high = static_cast<const uint8_t*>(w.high) + unit * (P::kHighWords * 4);
            scales = static_cast<const uint8_t*>(w.scales) + unit * (P::kScaleHalves * 2);
        }

        __device__ Loaded load(int batch) const {
            Loaded loaded;
            loaded.low = load_words(low + 512 * batch);
            if constexpr (P::kHighWords == 1) loaded.high[0] = load_once<uint32_t>(high + kHighStride * batch);
            if constexpr (P::kHighWords == 2) reinterpret_cast<uint2&>(loaded.high) = load_once<uint2>(high + kHighStride * batch);
            if constexpr (P::kScaleHalves == 1) {
                loaded.scales[0] = load_once<uint16_t>(scales + kScaleStride * batch);
            } else {
                uint32_t both[P::kScaleHalves / 2];
                if constexpr (P::kScaleHalves == 2) both[0] = load_once<uint32_t>(scales + kScaleStride * batch);
                else reinterpret_cast<uint2&>(both) = load_once<uint2>(scales + kScaleStride * batch);
#pragma unroll
                for (int i = 0; i < P::kScaleHalves; ++i) loaded.scales[i] = static_cast<uint16_t>(both[i / 2] >> 16 * (i % 2));
            }
            return loaded;
        }

        __device__ void advance(int batches) {
            low += 512 * batches;
            high += kHighStride * batches;
            scales += kScaleStride * batches;
        }
    };

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

    __device__ static float dot(const Loaded& loaded, const Vector& vector) { return dot_piece<P>(loaded, vector.x, vector.block); }
};

__device__ __forceinline__ float4 load_input(const MatvecArgs& args, uint32_t at) {
    switch (args.x_type) {
        case VectorType::F16: return load_four(static_cast<const __half*>(args.x) + at);
        case VectorType::BF16: return load_four(static_cast<const __nv_bfloat16*>(args.x) + at);
        case VectorType::F32: break;
    }
    return load_four(static_cast<const float*>(args.x) + at);
}

template <class W>
__device__ __forceinline__ void stage_vector(const MatvecArgs& args, uint8_t* shared) {
    const uint32_t cols = args.w.cols;
    if (args.norm == nullptr) {
        for (uint32_t at = 4 * threadIdx.x; at < cols; at += 4 * kThreads) W::stage(shared, cols, at, load_input(args, at));
        return;
    }
    __shared__ float scratch[kWarps];
    const float* x = static_cast<const float*>(args.x);
    float4 values[kNormVectors];
#pragma unroll
    for (int n = 0; n < kNormVectors; ++n) {
        const uint32_t at = 4 * (threadIdx.x + n * kThreads);
        values[n] = at < cols ? load_four(x + at) : float4{};
    }
    float squares = 0.0f;
#pragma unroll
    for (const float4& v : values) squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    const float scale = rsqrtf(block_sum(squares, scratch) / cols + args.epsilon);
#pragma unroll
    for (int n = 0; n < kNormVectors; ++n) {
        const uint32_t at = 4 * (threadIdx.x + n * kThreads);
        if (at >= cols) break;
        const float4 weight = *reinterpret_cast<const float4*>(args.norm + at), v = values[n];
        W::stage(shared, cols, at, {v.x * scale * weight.x, v.y * scale * weight.y, v.z * scale * weight.z, v.w * scale * weight.w});
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

/// Each warp asks for its share of what the next kernels read first.
__device__ __forceinline__ void fetch_ahead(const Ahead& ahead) {
    constexpr uint32_t kChunk = 4096;
    const uint64_t warps = uint64_t{gridDim.x} * kWarps;
    const uint64_t warp = uint64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (uint64_t at = (warp + (threadIdx.x % 32) * warps) * kChunk; at < ahead.bytes; at += 32 * warps * kChunk) {
        const uint64_t left = ahead.bytes - at;
        prefetch_l2(static_cast<const uint8_t*>(ahead.from) + at, static_cast<uint32_t>(left < kChunk ? left / 16 * 16 : kChunk));
    }
}

/// kGated: an item is a gate and its up row; otherwise kRows neighbouring rows.
template <class W, bool kGated>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) matvec_kernel(const MatvecArgs args) {
    constexpr int kRows = 2;
    extern __shared__ __align__(16) uint8_t shared[];
    let_next_start();
    await_previous();
    stage_vector<W>(args, shared);
    __syncthreads();

    const uint32_t lane = threadIdx.x % 32;
    const uint32_t half = args.w.rows / 2;
    const uint32_t items = kGated ? half : (args.w.rows + 1) / 2;
    const uint32_t pieces = args.w.cols / W::kWeights;
    // Neighbouring warps of the card take neighbouring rows, and every multiprocessor gets its share of the last ones.
    for (uint32_t item = blockIdx.x + gridDim.x * (threadIdx.x / 32); item < items; item += gridDim.x * kWarps) {
        const uint32_t rows[kRows] = {kGated ? item : 2 * item, kGated ? item + half : min(2 * item + 1, args.w.rows - 1)};
        typename W::Cursor cursors[kRows] = {{args.w, rows[0], lane}, {args.w, rows[1], lane}};
        float sums[kRows] = {};
        uint32_t piece = lane;
        const auto batches = [&](auto present) {  // present(d): whether this lane has a piece in batch d
            typename W::Loaded loaded[W::kDepth][kRows];
#pragma unroll
            for (int d = 0; d < W::kDepth; ++d) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    if (present(d)) loaded[d][r] = cursors[r].load(d);
                }
            }
#pragma unroll
            for (int d = 0; d < W::kDepth; ++d) {
                if (!present(d)) break;
                const typename W::Vector vector = W::vector(shared, args.w.cols, piece + 32 * d);
#pragma unroll
                for (int r = 0; r < kRows; ++r) sums[r] += W::dot(loaded[d][r], vector);
            }
        };
        for (; piece + 32 * (W::kDepth - 1) < pieces; piece += 32 * W::kDepth) {
            batches([](int) { return true; });
            for (auto& cursor : cursors) cursor.advance(W::kDepth);
        }
        batches([&](int d) { return piece + 32 * d < pieces; });
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
        if constexpr (kGated) {
            if (lane == 0) write_result(args, item, sums[0] / (1.0f + __expf(-sums[0])) * sums[1]);
        } else if (lane < kRows && 2 * item + lane < args.w.rows) {
            write_result(args, 2 * item + lane, lane == 0 ? sums[0] : sums[1]);
        }
    }
    for (const Ahead& ahead : args.ahead) fetch_ahead(ahead);
}

}  // namespace dca::cuda::vec
