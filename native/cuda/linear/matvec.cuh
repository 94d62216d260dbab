// A matrix times one vector.
//
// Every block of threads first puts the whole vector into shared memory, normed where wanted:
// f32 for 16-bit weights, 16-bit integers with a scale per 32 (planes.h) for quantised ones.
// Then each warp takes pairs of rows. Weights reach it through a ring of its own in shared memory,
// filled by asynchronous copies several steps ahead: memory is kept busy while the warp computes,
// from one pair of rows to the next, and while the vector is still being made. Shared memory is
// addressed by plain 32-bit addresses: the compiler keeps those in registers.
#pragma once

#include "core/engine/page_pool.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/vectors.cuh"
#include "cuda/linear/activation.cuh"
#include "cuda/linear/matvec.h"

namespace dca::cuda::vec {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 2;               // that a warp works on together
constexpr int kHalves = 2;             // of a step; in each a lane takes a piece of 16 bytes of every row
constexpr int kHalfBytes = 512;        // of a row's low plane
constexpr int kVectors = 4;            // groups of four values that a thread loads at once
constexpr size_t kStaticBytes = 1024;  // shared memory beside ring and vector: the block's sum and what CUDA reserves

/// Rows of 16-bit floats against a vector in f32. A piece is what a lane takes of a row at a time.
template <class T>
struct Dense {
    static constexpr int kWeights = 8;  // of a piece
    static constexpr int kUnits = 0;    // of half a step that have parts beside the low plane
    static constexpr int kHighBytes = 0, kScaleBytes = 0;
    static constexpr int kVectorBytes = 2 * 512;  // that go with half a step: 16 bytes a lane, twice
    struct Vector {
        float4 x[2];
    };

    __device__ static void stage(uint8_t* shared, uint32_t at, float4 values) {
        const uint32_t piece = at / 8, chunk = at % 8 / 4;
        *reinterpret_cast<float4*>(shared + piece / 32 * kVectorBytes + chunk * 512 + piece % 32 * 16) = values;
    }

    /// `at` is where this lane's first 16 bytes of the half step's vector are.
    __device__ static Vector vector(uint32_t at, uint32_t) { return {{ptx::load_shared<float4>(at), ptx::load_shared<float4>(at + 512)}}; }

    __device__ static float dot(uint32_t low, uint32_t, uint32_t, const Vector& vector) {
        const Words words = ptx::load_shared<Words>(low);
        const T* w = reinterpret_cast<const T*>(words.w);
        const float* x = reinterpret_cast<const float*>(vector.x);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += to_float(w[i]) * x[i];
        return sum;
    }
};

/// The planes of a quantised format against a vector in 16-bit integers with a scale per 32.
template <class P>
struct Quantised {
    static constexpr int kWeights = Piece<P>::kWeights;
    static constexpr int kChunks = Piece<P>::kChunks;
    static constexpr int kUnits = 32 * kWeights / kUnit;
    static constexpr int kHighBytes = P::kHighWords * 4, kScaleBytes = P::kScaleHalves * 2;  // of a unit
    static constexpr int kVectorBytes = kChunks * 512 + kUnits * static_cast<int>(sizeof(ActivationBlock));
    struct Vector {
        Words x[kChunks];
        ActivationBlock block;
    };

    /// Eight neighbouring threads hold a block of 32.
    __device__ static void stage(uint8_t* shared, uint32_t at, float4 values) {
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
        const uint32_t piece = at / kWeights, chunk = at % kWeights / 8;
        uint8_t* half = shared + piece / 32 * kVectorBytes;
        if (at % kUnit == 0) {
            reinterpret_cast<ActivationBlock*>(half + kChunks * 512)[at / kUnit % kUnits] =
                activation_block<P>(largest / 32767.0f, sum, other);
        }
        *reinterpret_cast<uint2*>(half + chunk * 512 + piece % 32 * 16 + at % 8 * 2) = {__byte_perm(q[0], q[1], 0x5410),
                                                                                        __byte_perm(q[2], q[3], 0x5410)};
    }

    /// `block` is where the half step's first activation block for this lane is.
    __device__ static Vector vector(uint32_t at, uint32_t block) {
        Vector vector;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) vector.x[c] = ptx::load_shared<Words>(at + 512 * c);
        vector.block = ptx::load_shared<ActivationBlock>(block);
        return vector;
    }

    /// `high` and `scales` are the piece's unit's.
    __device__ static float dot(uint32_t low, uint32_t high, uint32_t scales, const Vector& vector) {
        Piece<P> piece;
        piece.low = ptx::load_shared<Words>(low);
        if constexpr (kHighBytes == 4) piece.high[0] = ptx::load_shared<uint32_t>(high);
        if constexpr (kHighBytes == 8) reinterpret_cast<uint2&>(piece.high) = ptx::load_shared<uint2>(high);
        if constexpr (kScaleBytes == 2) {
            piece.scales[0] = ptx::load_shared<uint16_t>(scales);
        } else {
            uint32_t both[kScaleBytes / 4];
            if constexpr (kScaleBytes == 4)
                both[0] = ptx::load_shared<uint32_t>(scales);
            else
                reinterpret_cast<uint2&>(both) = ptx::load_shared<uint2>(scales);
#pragma unroll
            for (int i = 0; i < P::kScaleHalves; ++i) piece.scales[i] = static_cast<uint16_t>(both[i / 2] >> 16 * (i % 2));
        }
        return dot_piece<P>(piece, vector.x, vector.block);
    }
};

/// The whole vector in shared memory, with zeros up to the end of the last step.
template <class W>
__host__ __device__ inline uint32_t vector_bytes(uint32_t cols) {
    const uint32_t pieces = cols / W::kWeights, a_step = 32 * kHalves;
    return (pieces + a_step - 1) / a_step * kHalves * W::kVectorBytes;
}

/// How a step of a warp lies in its ring: kRows rows of the low plane, of the high plane, of the scales.
template <class W>
struct Step {
    static constexpr uint32_t kLowRow = kHalves * kHalfBytes;
    static constexpr uint32_t kHighRow = kHalves * W::kUnits * W::kHighBytes, kScaleRow = kHalves * W::kUnits * W::kScaleBytes;
    static constexpr uint32_t kHigh = kRows * kLowRow, kScales = kHigh + kRows * kHighRow;
    static constexpr uint32_t kBytes = kScales + kRows * kScaleRow;
};

/// How rows make the items that warps work on, kRows rows each.
struct Items {
    uint32_t rows, count;
    uint32_t apart;  // an item's rows are `apart` rows from each other, and fill runs of 2 · apart rows

    __device__ explicit Items(const MatvecArgs& args) : rows(args.w.rows), count((rows + 1) / 2), apart(args.rows_apart) {}

    /// Row r of an item. The last item of an odd number of rows has its row twice.
    __device__ __forceinline__ uint32_t row(uint32_t item, int r) const {
        if (apart == 1) return min(2 * item + r, rows - 1);
        const uint32_t of_run = item < apart ? item : item % apart;
        return 2 * (item - of_run) + of_run + r * apart;
    }

    /// Neighbouring blocks take neighbouring items, so that every multiprocessor gets its share of the last ones.
    static __device__ __forceinline__ uint32_t first() { return blockIdx.x + gridDim.x * (threadIdx.x / 32); }
    static __device__ __forceinline__ uint32_t stride() { return gridDim.x * kWarps; }
};

/// Fills a warp's ring, step by step along its rows and on to its next rows.
template <class W>
class Feed {
public:
    __device__ Feed(const MatvecArgs& args, const Items& items)
        : items_(items), pieces_(args.w.cols / W::kWeights), units_(args.w.cols / kUnit), padded_units_(padded_units(args.w.cols)) {
        low_base_ = static_cast<const uint8_t*>(args.w.low) + 16 * lane_;
        high_base_ = static_cast<const uint8_t*>(args.w.high) + lane_ % 16 * kGroup * W::kHighBytes;
        scale_base_ = static_cast<const uint8_t*>(args.w.scales) + lane_ % 16 * kGroup * W::kScaleBytes;
        enter();
    }

    /// Starts the copies of the next step to `at`; without one, only the count of groups goes on.
    __device__ __forceinline__ void next(uint32_t at) {
        if (item_ < items_.count) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
#pragma unroll
                for (int h = 0; h < kHalves; ++h) {
                    ptx::copy_async<16>(at + r * Step<W>::kLowRow + h * kHalfBytes + 16 * lane_, low_[r] + h * kHalfBytes, left_ > 32 * h);
                }
            }
            if constexpr (W::kUnits > 0) {
                const bool present = extras_left_ > 0;
                if constexpr (W::kHighBytes > 0) {
                    ptx::copy_async<kGroup * W::kHighBytes>(at + Step<W>::kHigh + lane_ * kGroup * W::kHighBytes, high_, present);
                    high_ += Step<W>::kHighRow;
                }
                ptx::copy_async<kGroup * W::kScaleBytes>(at + Step<W>::kScales + lane_ * kGroup * W::kScaleBytes, scales_, present);
                scales_ += Step<W>::kScaleRow;
                extras_left_ -= kHalves * W::kUnits;
            }
            left_ -= 32 * kHalves;
            if (left_ + static_cast<int>(lane_) > 0) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) low_[r] += Step<W>::kLowRow;
            } else {
                item_ += Items::stride();
                enter();
            }
        }
        ptx::copy_commit();
    }

private:
    /// Half the lanes fetch the high bits and scales of one row, half those of the other: kGroup units each.
    static constexpr int kGroup = W::kUnits > 0 ? kHalves * W::kUnits / 16 : 1;
    static_assert(kRows == 2);

    __device__ __forceinline__ void enter() {
        if (item_ >= items_.count) return;
        const uint32_t rows[kRows] = {items_.row(item_, 0), items_.row(item_, 1)};
        left_ = static_cast<int>(pieces_ - lane_);
#pragma unroll
        for (int r = 0; r < kRows; ++r) low_[r] = low_base_ + uint64_t{rows[r]} * (16 * pieces_);
        if constexpr (W::kUnits > 0) {
            const uint64_t unit = uint64_t{lane_ < 16 ? rows[0] : rows[1]} * padded_units_;
            high_ = high_base_ + unit * W::kHighBytes;
            scales_ = scale_base_ + unit * W::kScaleBytes;
            extras_left_ = static_cast<int>(units_ - lane_ % 16 * kGroup);
        }
    }

    const Items& items_;
    const uint32_t lane_ = threadIdx.x % 32;
    const uint32_t pieces_, units_, padded_units_;
    const uint8_t *low_base_, *high_base_, *scale_base_;

    // The item and the step, from this lane's part on.
    uint32_t item_ = Items::first();
    int left_ = 0, extras_left_ = 0;  // pieces and units of the row
    const uint8_t* low_[kRows];
    const uint8_t *high_, *scales_;
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

/// Puts the vector into shared memory. `loading` is called while the first loads are on their way.
template <class W, class Loading>
__device__ __forceinline__ void stage_vector(const MatvecArgs& args, uint8_t* shared, Loading&& loading) {
    constexpr uint32_t at_once = 4 * kThreads * kVectors, step_bytes = kHalves * W::kVectorBytes;
    const uint32_t cols = args.w.cols, own = 4 * threadIdx.x;
    float4 values[kVectors];
    load_input(args, own, values);
    loading();
    if (cols % (32 * kHalves * W::kWeights) != 0) {
        uint8_t* last = shared + vector_bytes<W>(cols) - step_bytes;
        for (uint32_t at = 16 * threadIdx.x; at < step_bytes; at += 16 * kThreads) *reinterpret_cast<float4*>(last + at) = float4{};
        __syncthreads();
    }
    float scale = 1.0f;
    if (args.norm != nullptr) {
        __shared__ float scratch[kWarps];
        float squares = 0.0f;
        for (uint32_t first = own;;) {
#pragma unroll
            for (const float4& v : values) squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
            first += at_once;
            if (first >= cols) break;
            load_input(args, first, values);
        }
        scale = rsqrtf(block_sum(squares, scratch) / cols + args.epsilon);
        if (cols > at_once) load_input(args, own, values);
    }
    for (uint32_t first = own; first < cols;) {
#pragma unroll
        for (int n = 0; n < kVectors; ++n) {
            const uint32_t at = first + 4 * n * kThreads;
            if (at >= cols) break;
            float4 v = values[n];
            if (args.norm != nullptr) {
                const float4 weight = *reinterpret_cast<const float4*>(args.norm + at);
                v = {v.x * scale * weight.x, v.y * scale * weight.y, v.z * scale * weight.z, v.w * scale * weight.w};
            }
            W::stage(shared, at, v);
        }
        first += at_once;
        if (first < cols) load_input(args, first, values);
    }
}

/// One value of y, of type y_type.
__device__ __forceinline__ void write_value(void* y, VectorType type, uint64_t at, float value) {
    switch (type) {
        case VectorType::F16: static_cast<__half*>(y)[at] = rounded<__half>(value); return;
        case VectorType::BF16: static_cast<__nv_bfloat16*>(y)[at] = rounded<__nv_bfloat16>(value); return;
        case VectorType::F32: break;
    }
    static_cast<float*>(y)[at] = value;
}

/// A pair of rows of q, k or v: keys are rotated (row 0 and row 1 are a pair of RoPE) and go to the cache with the values.
__device__ __forceinline__ void write_qkv(const MatvecArgs& args, const KvTarget& kv, const uint32_t (&rows)[kRows],
                                          const float (&sums)[kRows], bool second) {
    const uint32_t row = second ? rows[1] : rows[0];
    float value = second ? sums[1] : sums[0];
    if (row < kv.q_rows) {
        write_value(args.y, args.y_type, row, value);
        return;
    }
    const bool is_key = row < kv.q_rows + kv.kv_rows;
    const uint32_t at = row - kv.q_rows - (is_key ? 0 : kv.kv_rows), head = at / kv.head_dim, e = at % kv.head_dim;
    const uint32_t index = *kv.index, place = *kv.place;
    const uint32_t pair = rows[0] % kv.head_dim / (args.rows_apart == 1 ? 2 : 1);
    if (is_key && 2 * pair < kv.rotary_dim) {
        const float2 angle = kv.cos_sin[uint64_t{index % kv.chunk_size} * (kv.rotary_dim / 2) + pair];
        value = second ? sums[1] * angle.x + sums[0] * angle.y : sums[0] * angle.x - sums[1] * angle.y;
    }
    const uint64_t slot = uint64_t{place / kPageTokens} * (kv.kv_rows / kv.head_dim) + head;
    write_value(is_key ? kv.keys : kv.values, kv.type, (slot * kPageTokens + place % kPageTokens) * kv.head_dim + e, value);
}

/// An item's results, lanes 0 and 1 one row each.
__device__ __forceinline__ void write_item(const MatvecArgs& args, const Items& items, uint32_t item, float (&sums)[kRows], uint32_t lane) {
    if (lane >= kRows || (lane == 1 && items.rows == 2 * item + 1)) return;
    const uint32_t rows[kRows] = {items.row(item, 0), items.row(item, 1)};
    if (args.bias != nullptr) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] += args.bias[rows[r]];
    }
    if (args.gated) {
        if (lane == 0) write_value(args.y, args.y_type, rows[0], gated(args.activation, sums[0], sums[1]));
        return;
    }
    const bool second = lane == 1;
    if (args.kv.keys != nullptr) {
        write_qkv(args, args.kv, rows, sums, second);
    } else {
        const uint32_t row = second ? rows[1] : rows[0];
        const float value = second ? sums[1] : sums[0];
        write_value(args.y, args.y_type, row, args.add ? __ldcg(static_cast<const float*>(args.y) + row) + value : value);
    }
}

/// The product. In shared memory: kWarps rings of kSteps steps, then the vector. `await_input` returns when x may be read.
template <class W, int kSteps, class Await>
__device__ __forceinline__ void multiply(const MatvecArgs& args, uint8_t* shared, Await&& await_input) {
    constexpr uint32_t kRing = kSteps * Step<W>::kBytes;
    uint8_t* vector = shared + kWarps * kRing;
    const uint32_t ring = ptx::shared_address(shared) + threadIdx.x / 32 * kRing, ring_end = ring + kRing;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t unit = W::kUnits == 32 ? lane : lane / 2;  // of half a step, that this lane's piece is in
    const Items items(args);
    Feed<W> feed(args, items);
    feed.next(ring);
    await_input();
    // The vector's loads go before most of the weights': behind them they would wait for all of those.
    stage_vector<W>(args, vector, [&] {
#pragma unroll 1
        for (int step = 1; step + 1 < kSteps; ++step) feed.next(ring + step * Step<W>::kBytes);
    });
    __syncthreads();

    const uint32_t x_begin = ptx::shared_address(vector) + 16 * lane, x_end = x_begin + vector_bytes<W>(args.w.cols);
    uint32_t from = ring, to = ring_end - Step<W>::kBytes;
    for (uint32_t item = Items::first(); item < items.count; item += Items::stride()) {
        float sums[kRows] = {};
        for (uint32_t x_at = x_begin; x_at < x_end; x_at += kHalves * W::kVectorBytes) {
            ptx::copy_wait<kSteps - 2>();
            __syncwarp();  // every lane's copies have arrived, and every lane is done with the step before
            feed.next(to);
#pragma unroll
            for (int h = 0; h < kHalves; ++h) {
                const uint32_t block = x_at - 16 * lane + h * W::kVectorBytes + (W::kVectorBytes - 16 * W::kUnits) + 16 * unit;
                const typename W::Vector x = W::vector(x_at + h * W::kVectorBytes, block);
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    sums[r] += W::dot(from + r * Step<W>::kLowRow + h * kHalfBytes + 16 * lane,
                                      from + Step<W>::kHigh + r * Step<W>::kHighRow + (h * W::kUnits + unit) * W::kHighBytes,
                                      from + Step<W>::kScales + r * Step<W>::kScaleRow + (h * W::kUnits + unit) * W::kScaleBytes, x);
                }
            }
            to = from;
            from += Step<W>::kBytes;
            if (from == ring_end) from = ring;
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[r] = warp_sum(sums[r]);
        write_item(args, items, item, sums, lane);
    }
}

template <class W, int kSteps>
__global__ void __launch_bounds__(kThreads, 2) matvec_kernel(const __grid_constant__ MatvecArgs args) {
    extern __shared__ __align__(16) uint8_t shared[];
    let_next_start();
    multiply<W, kSteps>(args, shared, [] { await_previous(); });
}

}  // namespace dca::cuda::vec
