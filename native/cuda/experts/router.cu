#include "cuda/experts/router.h"

#include "cuda/device/vectors.cuh"
#include "cuda/experts/order.h"

namespace dca::cuda {
namespace {

constexpr int kLogitThreads = 256;
constexpr int kLoads = 4;        // of four values, that a thread has on their way at once
constexpr int kChooseWarps = 2;  // a row each
constexpr int kSortWarps = 32;

__device__ __forceinline__ float dot(const float4& a, const float4& b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

/// A block a logit. The norm is a factor that every block finds beside its dot product.
__global__ void __launch_bounds__(kLogitThreads)
    router_logits_row_kernel(const float* x, const float* router, float epsilon, uint32_t cols, float* logits) {
    __shared__ float scratch[2][kLogitThreads / 32];
    constexpr uint32_t at_once = 4 * kLogitThreads * kLoads;
    let_next_start();
    router += uint64_t{blockIdx.x} * cols;
    float4 weights[kLoads];
    const auto load_weights = [&](uint32_t first) {
#pragma unroll
        for (int n = 0; n < kLoads; ++n) {
            const uint32_t at = first + 4 * (n * kLogitThreads + threadIdx.x);
            weights[n] = at < cols ? *reinterpret_cast<const float4*>(router + at) : float4{};
        }
    };
    load_weights(0);
    await_previous();
    float sum = 0.0f, squares = 0.0f;
    for (uint32_t first = 0; first < cols; first += at_once) {
        if (first > 0) load_weights(first);
        float4 values[kLoads];
#pragma unroll
        for (int n = 0; n < kLoads; ++n) {
            const uint32_t at = first + 4 * (n * kLogitThreads + threadIdx.x);
            values[n] = at < cols ? load_four(x + at) : float4{};
        }
#pragma unroll
        for (int n = 0; n < kLoads; ++n) {
            sum += dot(weights[n], values[n]);
            squares += dot(values[n], values[n]);
        }
    }
    sum = block_sum(sum, scratch[0]);
    squares = block_sum(squares, scratch[1]);
    if (threadIdx.x == 0) logits[blockIdx.x] = sum * rsqrtf(squares / cols + epsilon);
}

__device__ __forceinline__ uint64_t warp_largest(uint64_t value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(~0u, static_cast<unsigned long long>(value), step);
        if (other > value) value = other;
    }
    return value;
}

/// A warp a token: it walks down the ranks of the experts, one round each.
__global__ void __launch_bounds__(32 * kChooseWarps) choose_experts_kernel(const ChooseArgs args) {
    extern __shared__ float shared[];
    let_next_start();
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * kChooseWarps + warp;
    await_previous();
    if (row >= args.rows) return;  // a whole warp; below, warps do not wait for each other
    float* logits = shared + warp * args.n_experts;
    const float* from = args.logits + uint64_t{row} * args.stride;
    const float factor = args.factors == nullptr ? 1.0f : __ldcg(args.factors + row);
    for (uint32_t e = lane; e < args.n_experts; e += 32)
        logits[e] = __ldcg(from + e) * factor + (args.bias == nullptr ? 0.0f : args.bias[e]);
    __syncwarp();

    uint32_t* experts = args.experts + uint64_t{row} * args.n_used;
    float* weights = args.weights + uint64_t{row} * (args.n_used + 1);
    float top = 0.0f, chosen = 0.0f;
    uint64_t last = ~uint64_t{0};
    for (uint32_t choice = 0; choice < args.n_used; ++choice) {
        uint64_t next = 0;
        for (uint32_t e = lane; e < args.n_experts; e += 32) {
            const uint64_t rank = expert_rank(logits[e], e);
            if (rank < last && rank > next) next = rank;
        }
        last = warp_largest(next);
        const float logit = logit_of_rank(last);
        if (choice == 0) top = logit;
        const float weight = expf(logit - top);
        chosen += weight;
        if (lane == 0) {
            experts[choice] = expert_of_rank(last);
            weights[choice] = weight;
        }
    }
    float total = chosen;
    if (!args.normalised) {
        total = 0.0f;
        for (uint32_t e = lane; e < args.n_experts; e += 32) total += expf(logits[e] - top);
        total = warp_sum(total);
    }
    __syncwarp();  // lane 0 has written the weights
    for (uint32_t choice = lane; choice < args.n_used; choice += 32) weights[choice] = weights[choice] / total * args.scale;
    if (lane == 0) weights[args.n_used] = args.shared_gated ? 1.0f / (1.0f + expf(-__ldcg(from + args.n_experts) * factor)) : 1.0f;
}

/// A block an expert, which counts the pairs of those before it (its first place) and then gives its
/// own pairs places in their order. Every warp has a part of the pairs, which it goes through twice.
__global__ void __launch_bounds__(32 * kSortWarps) sort_pairs_kernel(const SortArgs args) {
    __shared__ uint32_t before[kSortWarps], own[kSortWarps];
    const uint32_t expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const PairRange range = pairs_of_warp(args.n_pairs, warp, kSortWarps);
    uint32_t less = 0, equal = 0;
    for (uint32_t pair = range.first + lane; pair < range.end; pair += 32) {
        const uint32_t other = args.experts[pair];
        less += other < expert;
        equal += other == expert;
    }
    less = __reduce_add_sync(~0u, less);
    equal = __reduce_add_sync(~0u, equal);
    if (lane == 0) {
        before[warp] = less;
        own[warp] = equal;
    }
    __syncthreads();
    uint32_t place = 0, count = 0;
    for (int w = 0; w < kSortWarps; ++w) {
        place += before[w] + (w < static_cast<int>(warp) ? own[w] : 0);
        count += own[w];
    }
    if (threadIdx.x == 0) args.counts[expert] = count;
    for (uint32_t first = range.first; first < range.end; first += 32) {
        const uint32_t pair = first + lane;
        const bool mine = pair < range.end && args.experts[pair] == expert;
        const uint32_t all = __ballot_sync(~0u, mine);
        if (mine) {
            const uint32_t at = place + __popc(all & ((1u << lane) - 1));
            args.pairs[at] = pair;
            args.places[pair] = at;
        }
        place += __popc(all);
    }
}

}  // namespace

cudaError_t router_logits_row(const Card& card, const float* x, const float* router, float epsilon, uint32_t cols, uint32_t n_logits,
                              float* logits, cudaStream_t stream) {
    return launch_overlapped(card, router_logits_row_kernel, dim3(n_logits), kLogitThreads, 0, stream, x, router, epsilon, cols, logits);
}

cudaError_t choose_experts(const Card& card, const ChooseArgs& args, cudaStream_t stream) {
    if (args.n_experts > kMostExperts || args.n_used > args.n_experts) return cudaErrorInvalidValue;
    const dim3 grid((args.rows + kChooseWarps - 1) / kChooseWarps);
    const size_t bytes = sizeof(float) * kChooseWarps * args.n_experts;  // 32 KB at most
    return launch_overlapped(card, choose_experts_kernel, grid, 32 * kChooseWarps, bytes, stream, args);
}

cudaError_t sort_pairs(const SortArgs& args, cudaStream_t stream) {
    sort_pairs_kernel<<<args.n_experts, 32 * kSortWarps, 0, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace dca::cuda
