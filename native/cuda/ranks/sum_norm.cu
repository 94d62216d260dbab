#include "cuda/ranks/sum_norm.h"

#include <algorithm>
#include <type_traits>

#include "cuda/device/vectors.cuh"
#include "cuda/ranks/link.cuh"

namespace dca::cuda {
namespace {

constexpr uint32_t kMostThreads = 1024, kAddThreads = 256;  // of a block
constexpr int kAtOnce = 2;                                  // times four values of a thread whose loads are on their way together

/// Four values of T, in the bits of two words.
template <class T>
struct Four {
    uint2 bits;

    __device__ float at(int i) const {
        const float value = to_float(reinterpret_cast<const T*>(&bits)[i]);
        if constexpr (!std::is_same_v<T, __half>) return value;
        constexpr float most = 65504.0f;
        return value > most ? most : value < -most ? -most : value;  // NaN stays
    }
};

template <class T>
__device__ __forceinline__ void add(float4& total, const Four<T>& v) {
    total = {total.x + v.at(0), total.y + v.at(1), total.z + v.at(2), total.w + v.at(3)};
}

/// to = x / rms(x) · weight for a row whose values this thread has written itself: columns 4 threadIdx.x, and so on.
template <class T>
__device__ __forceinline__ void norm_row(const NormArgs& norm, const float* x, float squares, uint32_t row) {
    __shared__ float scratch[kMostThreads / 32];
    const float scale = rsqrtf(block_sum(squares, scratch) / norm.width + norm.epsilon);
    if (norm.factors != nullptr && threadIdx.x == 0) norm.factors[row] = scale;
    T* to = static_cast<T*>(norm.to) + uint64_t{row} * norm.width;
    for (uint32_t i = 4 * threadIdx.x; i < norm.width; i += 4 * blockDim.x) {
        const float4 v = __ldcg(reinterpret_cast<const float4*>(x + i)), w = *reinterpret_cast<const float4*>(norm.weight + i);
        T out[4] = {rounded<T>(v.x * scale * w.x), rounded<T>(v.y * scale * w.y), rounded<T>(v.z * scale * w.z),
                    rounded<T>(v.w * scale * w.w)};
        *reinterpret_cast<uint2*>(to + i) = *reinterpret_cast<const uint2*>(out);
    }
}

__device__ __forceinline__ float squares_of(const float4& v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }

/// With bits that say that they have come.
__device__ __forceinline__ uint2 sendable(const uint2& v) {
    return {v.x == kNothing ? kNoNumbers : v.x, v.y == kNothing ? kNoNumbers : v.y};
}

/// Blocks of a kernel whose blocks wait for other ranks. Where those share the card some of it is left to them.
uint32_t push_blocks(const RankTable& table) { return table.one_card ? kSumBlocks : kPushedRows; }

/// Few rows are a matter of latencies: every four values have a thread, so that none waits for one packet after another.
int push_threads(uint32_t width) { return static_cast<int>(std::min((width / 4 + 31) / 32 * 32, kMostThreads)); }

/// A block takes a row at a time, where there are as many as blocks: one. What has been read is taken away at once: its place is
/// written again two sums on, by a rank that has this one's of the sum between.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    push_norm_kernel(const __grid_constant__ RankTable table, const __grid_constant__ SumNormArgs args) {
    const RankMemory& own = table.of[table.rank];
    const uint32_t number = begin_sum(table, own.row_tickets);
    const uint32_t rows = args.norm.rows, width = args.norm.width;
    const T* partials = reinterpret_cast<const T*>(own.partial[static_cast<uint32_t>(args.partial)]);
    const auto slot = [&](uint32_t of, uint32_t from, uint32_t row, uint32_t i) {
        return table.of[of].pushed_rows + ((uint64_t{number % 2} * table.ranks + from) * kPushedRows + row) * (width / 4) + i / 4;
    };
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        for (uint32_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) {
            const uint2 v = __ldcg(reinterpret_cast<const uint2*>(partials + uint64_t{row} * width + i));
            for (uint32_t r = 0; r < table.ranks; ++r) {
                if (r != table.rank) store_words(slot(r, table.rank, row, i), sendable(v));
            }
        }
    }
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float* x = args.x + uint64_t{row} * width;
        float squares = 0.0f;
        for (uint32_t begin = 4 * threadIdx.x; begin < width; begin += kAtOnce * 4 * blockDim.x) {
            const auto each = [&](auto&& visit) {
#pragma unroll
                for (int k = 0; k < kAtOnce; ++k) {
                    if (const uint32_t i = begin + k * 4 * blockDim.x; i < width) visit(k, i);
                }
            };
            float4 total[kAtOnce];
            each([&](int k, uint32_t i) { total[k] = load_four(x + i); });
            for (uint32_t r = 0; r < table.ranks; ++r) {
                if (r == table.rank) {
                    each([&](int k, uint32_t i) {
                        add(total[k], Four<T>{__ldcg(reinterpret_cast<const uint2*>(partials + uint64_t{row} * width + i))});
                    });
                } else {
                    uint2 words[kAtOnce];
                    each([&](int k, uint32_t i) { words[k] = load_words(slot(table.rank, r, row, i)); });
                    each([&](int k, uint32_t i) { add(total[k], Four<T>{take_words(table, slot(table.rank, r, row, i), words[k])}); });
                }
            }
            each([&](int k, uint32_t i) {
                *reinterpret_cast<float4*>(x + i) = total[k];
                squares += squares_of(total[k]);
            });
        }
        norm_row<T>(args.norm, x, squares, row);
        __syncthreads();  // what norm_row shares between threads is used again
    }
}

/// A block a row.
template <class T>
__global__ void __launch_bounds__(kAddThreads)
    add_norm_kernel(const __grid_constant__ RankTable table, const __grid_constant__ SumNormArgs args) {
    let_next_start();
    await_previous();
    const RankMemory& own = table.of[table.rank];
    const uint32_t row = blockIdx.x, width = args.norm.width, buffer = static_cast<uint32_t>(args.partial);
    float* x = args.x + uint64_t{row} * width;
    float squares = 0.0f;
    for (uint32_t i = 4 * threadIdx.x; i < width; i += 4 * kAddThreads) {
        float4 total = load_four(x + i);
        for (uint32_t r = 0; r < table.ranks; ++r) {
            const bool letter = args.mailed && r != table.rank;
            const std::byte* from = letter ? own.inbox[buffer] + inbox_place(r, table.rank) * own.inbox_bytes : table.of[r].partial[buffer];
            add(total, Four<T>{__ldcg(reinterpret_cast<const uint2*>(reinterpret_cast<const T*>(from) + uint64_t{row} * width + i))});
        }
        *reinterpret_cast<float4*>(x + i) = total;
        squares += squares_of(total);
    }
    norm_row<T>(args.norm, x, squares, row);
}

}  // namespace

cudaError_t push_and_norm(const Card& card, const RankTable& table, const SumNormArgs& args, cudaStream_t stream) {
    if (args.norm.rows > kPushedRows || args.norm.width % 4 != 0) return cudaErrorInvalidValue;
    const auto kernel = args.norm.dtype == Dtype::F16 ? push_norm_kernel<__half> : push_norm_kernel<__nv_bfloat16>;
    return launch_overlapped(card, kernel, dim3(push_blocks(table)), push_threads(args.norm.width), 0, stream, table, args);
}

cudaError_t add_and_norm(const RankTable& table, const SumNormArgs& args, cudaStream_t stream) {
    if (args.norm.width % 4 != 0) return cudaErrorInvalidValue;
    const auto kernel = args.norm.dtype == Dtype::F16 ? add_norm_kernel<__half> : add_norm_kernel<__nv_bfloat16>;
    kernel<<<args.norm.rows, kAddThreads, 0, stream>>>(table, args);  // behind what the stream waits for
    return cudaGetLastError();
}

}  // namespace dca::cuda
