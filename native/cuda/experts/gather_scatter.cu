#include "cuda/experts/gather_scatter.h"

#include "cuda/device/vectors.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

uint32_t blocks_for(uint64_t threads) { return static_cast<uint32_t>((threads + kThreads - 1) / kThreads); }

__device__ __forceinline__ float4& at_four(float* values, uint64_t at) { return *reinterpret_cast<float4*>(values + at); }
__device__ __forceinline__ const float4& at_four(const float* values, uint64_t at) { return *reinterpret_cast<const float4*>(values + at); }

__device__ __forceinline__ float4 add_product(const float4& sum, float weight, const float4& value) {
    return {sum.x + weight * value.x, sum.y + weight * value.y, sum.z + weight * value.z, sum.w + weight * value.w};
}

/// 16 bytes a thread.
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const uint4* from, const uint32_t* pairs, uint32_t n_used, uint32_t width, uint64_t n, uint4* to) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < n) to[i] = from[uint64_t{pairs[i / width] / n_used} * width + i % width];
}

/// Four columns of a token a thread.
__global__ void __launch_bounds__(kThreads) scatter_kernel(const ScatterArgs args, uint64_t n) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n) return;
    const uint32_t fours = args.width / 4;
    const uint64_t row = i / fours, column = i % fours * 4;
    const uint32_t* places = args.places + row * args.n_used;
    const float* weights = args.weights + row * (args.n_used + 1);
    float4 sum{};
    bool any = false;
    for (uint32_t choice = 0; choice < args.n_used; ++choice) {
        const uint32_t place = places[choice];
        if (place < args.first_place || place >= args.end_place) continue;
        sum = add_product(sum, weights[choice], at_four(args.results, uint64_t{place - args.first_place} * args.width + column));
        any = true;
    }
    if (!any) return;
    float4& x = at_four(args.x, row * args.width + column);
    x = add_product(x, 1.0f, sum);
}

__global__ void __launch_bounds__(kThreads)
    add_weighted_kernel(const float* results, const float* weights, uint32_t stride, uint32_t fours, uint64_t n, float* x) {
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n) return;
    float4& to = at_four(x, 4 * i);
    to = add_product(to, weights[i / fours * stride], at_four(results, 4 * i));
}

__global__ void __launch_bounds__(kThreads) add_weighted_row_kernel(const __grid_constant__ AddWeightedRowArgs args) {
    let_next_start();
    await_previous();
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= args.width) return;
    const auto term = [&](uint32_t t) { return __ldcg(args.weights + t) * __ldcg(args.results + uint64_t{t} * args.width + i); };
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t t = 0; t < args.n_used; ++t) {
        if (args.own.hold(__ldcg(args.experts + t))) sum += term(t);
    }
    if (args.shared) sum += term(args.n_used);
    args.x[i] = args.add ? __ldcg(args.x + i) + sum : sum;
}

}  // namespace

cudaError_t gather_tokens(const void* from, const uint32_t* pairs, uint32_t n_pairs, uint32_t n_used, uint32_t width, void* to,
                          cudaStream_t stream) {
    const uint64_t n = uint64_t{n_pairs} * (width / 8);
    gather_kernel<<<blocks_for(n), kThreads, 0, stream>>>(static_cast<const uint4*>(from), pairs, n_used, width / 8, n,
                                                          static_cast<uint4*>(to));
    return cudaGetLastError();
}

cudaError_t scatter_results(const ScatterArgs& args, cudaStream_t stream) {
    const uint64_t n = uint64_t{args.rows} * (args.width / 4);
    scatter_kernel<<<blocks_for(n), kThreads, 0, stream>>>(args, n);
    return cudaGetLastError();
}

cudaError_t add_weighted(const float* results, const float* weights, uint32_t stride, uint32_t rows, uint32_t width, float* x,
                         cudaStream_t stream) {
    const uint64_t n = uint64_t{rows} * (width / 4);
    add_weighted_kernel<<<blocks_for(n), kThreads, 0, stream>>>(results, weights, stride, width / 4, n, x);
    return cudaGetLastError();
}

cudaError_t add_weighted_row(const Card& card, const AddWeightedRowArgs& args, cudaStream_t stream) {
    return launch_overlapped(card, add_weighted_row_kernel, dim3(blocks_for(args.width)), kThreads, 0, stream, args);
}

}  // namespace dca::cuda
