#include "cuda/ranks/sum.h"

#include "cuda/device/launch.h"
#include "cuda/device/vectors.cuh"
#include "cuda/ranks/link.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kAtOnce = 4;  // loads of 16 bytes of a thread that are on their way together

__device__ __forceinline__ const float* partial_of(const RankTable& table, uint32_t rank, Partial partial) {
    return reinterpret_cast<const float*>(table.of[rank].partial[static_cast<uint32_t>(partial)]);
}

/// Few values: every rank sends its own to all others, each with the sum's number, which tells the receiver that it has
/// arrived. One way across the link instead of a signal and a reading.
__global__ void __launch_bounds__(kThreads) push_kernel(const __grid_constant__ RankTable table, const SumArgs args) {
    const uint32_t number = begin_sum(table, table.of[table.rank].tickets);
    const uint64_t pairs = args.n / 2, stride = uint64_t{gridDim.x} * kThreads, begin = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    const float2* partial = reinterpret_cast<const float2*>(partial_of(table, table.rank, args.partial));
    const auto slot = [&](uint32_t of, uint32_t from, uint64_t pair) {
        return table.of[of].pushed + (uint64_t{number % 2} * table.ranks + from) * (kPushedValues / 2) + pair;
    };
    for (uint64_t i = begin; i < pairs; i += stride) {
        const float2 v = __ldcg(partial + i);
        for (uint32_t r = 0; r < table.ranks; ++r) {
            if (r != table.rank) store_packet(slot(r, table.rank, i), {__float_as_uint(v.x), number, __float_as_uint(v.y), number});
        }
    }
    for (uint64_t i = begin; i < pairs; i += stride) {
        float2* x = reinterpret_cast<float2*>(args.x) + i;
        float2 total = __ldcg(x);
        for (uint32_t r = 0; r < table.ranks; ++r) {
            if (r == table.rank) {
                const float2 v = __ldcg(partial + i);
                total = {total.x + v.x, total.y + v.y};
            } else {
                const uint4* at = slot(table.rank, r, i);
                const uint4 packet = await_packet(table, at, number, load_packet(at));
                total = {total.x + __uint_as_float(packet.x), total.y + __uint_as_float(packet.z)};
            }
        }
        *x = total;
    }
}

__device__ __forceinline__ float4 sum(const float4& a, const float4& b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// Many values: the ranks tell each other that theirs are there, and each reads all.
__global__ void __launch_bounds__(kThreads) pull_kernel(const __grid_constant__ RankTable table, const SumArgs args) {
    const RankMemory& own = table.of[table.rank];
    const uint32_t number = begin_sum(table, own.tickets);
    if (args.waits && threadIdx.x < table.ranks && threadIdx.x != table.rank) {
        store_release(table.of[threadIdx.x].arrived + table.rank * kSumBlocks + blockIdx.x, number);
        await_number(table, own.arrived + threadIdx.x * kSumBlocks + blockIdx.x, number);
    }
    __syncthreads();
    const uint64_t fours = args.n / 4, stride = uint64_t{gridDim.x} * kThreads;
    for (uint64_t begin = uint64_t{blockIdx.x} * kThreads + threadIdx.x; begin < fours; begin += kAtOnce * stride) {
        // x comes first: its loads are under way with those that cross the link.
        float4 total[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const uint64_t i = begin + k * stride;
            total[k] = i < fours ? load_four(args.x + 4 * i) : float4{};
        }
        for (uint32_t r = 0; r < table.ranks; ++r) {
            float4 v[kAtOnce];
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) {
                const uint64_t i = begin + k * stride;
                v[k] = i < fours ? load_four(partial_of(table, r, args.partial) + 4 * i) : float4{};
            }
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) total[k] = sum(total[k], v[k]);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const uint64_t i = begin + k * stride;
            if (i < fours) *reinterpret_cast<float4*>(args.x + 4 * i) = total[k];
        }
    }
}

__global__ void signal_kernel(const __grid_constant__ RankTable table, uint32_t number) {
    if (threadIdx.x < table.ranks && threadIdx.x != table.rank) store_release(table.of[threadIdx.x].reached + table.rank, number);
}

__global__ void await_kernel(const __grid_constant__ RankTable table, uint32_t number) {
    if (threadIdx.x < table.ranks && threadIdx.x != table.rank) await_number(table, table.of[table.rank].reached + threadIdx.x, number);
}

}  // namespace

cudaError_t signal_others(const RankTable& table, uint32_t number, cudaStream_t stream) {
    signal_kernel<<<1, 32, 0, stream>>>(table, number);
    return cudaGetLastError();
}

cudaError_t await_others(const RankTable& table, uint32_t number, cudaStream_t stream) {
    await_kernel<<<1, 32, 0, stream>>>(table, number);
    return cudaGetLastError();
}

cudaError_t sum_ranks(const Card& card, const RankTable& table, const SumArgs& args, cudaStream_t stream) {
    if (args.n == 0 || args.n % 4 != 0) return cudaErrorInvalidValue;
    if (!args.waits) {  // behind what the stream waits for
        pull_kernel<<<kSumBlocks, kThreads, 0, stream>>>(table, args);
        return cudaGetLastError();
    }
    const bool few = args.n <= kPushedValues;
    return launch_overlapped(card, few ? push_kernel : pull_kernel, dim3(kSumBlocks), kThreads, 0, stream, table, args);
}

}  // namespace dca::cuda
