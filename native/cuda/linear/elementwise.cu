#include "cuda/linear/elementwise.h"

#include "cuda/device/vectors.cuh"
#include "cuda/linear/activation.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kScoreThreads = 1024;
constexpr int kHeadWarps = 4;
constexpr int kMaxHeadPairs = 4;  // of neighbouring values a lane; head_dim <= 256
constexpr uint32_t kKept = 4;     // times four values of a row that is normed: all of 4096

/// A value that an earlier kernel wrote, perhaps after this one had started: not from the first-level cache.
template <class T>
__device__ Eight<T> fresh(const Eight<T>* from) {
    static_assert(sizeof(Eight<T>) == sizeof(uint4));
    const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(from));
    return reinterpret_cast<const Eight<T>&>(bits);
}

/// Calls body(T{}) with the type of dtype.
template <class Body>
void with_type(Dtype dtype, Body&& body) {
    if (dtype == Dtype::F16)
        body(__half{});
    else
        body(__nv_bfloat16{});
}

/// Four neighbouring values of a row, normed.
template <class T>
__device__ __forceinline__ void write_normed(T* to, const float4& v, float scale, const float4& w) {
    alignas(8) const T out[4] = {rounded<T>(v.x * scale * w.x), rounded<T>(v.y * scale * w.y), rounded<T>(v.z * scale * w.z),
                                 rounded<T>(v.w * scale * w.w)};
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(out);
}

/// A block a row. A thread keeps the first values it reads, and the norm's weights are there before x is.
template <class T>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const __grid_constant__ NormArgs args) {
    __shared__ float scratch[kThreads / 32];
    const float* x = args.x + uint64_t{blockIdx.x} * args.width;
    T* to = static_cast<T*>(args.to) + uint64_t{blockIdx.x} * args.width;
    float4 kept[kKept], weights[kKept];
#pragma unroll
    for (uint32_t n = 0; n < kKept; ++n) {
        const uint32_t i = 4 * (threadIdx.x + n * kThreads);
        weights[n] = i < args.width ? *reinterpret_cast<const float4*>(args.weight + i) : float4{};
    }
    let_next_start();
    await_previous();
    float squares = 0.0f;
#pragma unroll
    for (uint32_t n = 0; n < kKept; ++n) {
        const uint32_t i = 4 * (threadIdx.x + n * kThreads);
        kept[n] = i < args.width ? __ldcg(reinterpret_cast<const float4*>(x + i)) : float4{};
    }
#pragma unroll
    for (const float4& v : kept) squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    const uint32_t beyond = 4 * (threadIdx.x + kKept * kThreads);
    for (uint32_t i = beyond; i < args.width; i += 4 * kThreads) {
        const float4 v = __ldcg(reinterpret_cast<const float4*>(x + i));
        squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    const float scale = rsqrtf(block_sum(squares, scratch) / args.width + args.epsilon);
    if (args.factors != nullptr && threadIdx.x == 0) args.factors[blockIdx.x] = scale;
#pragma unroll
    for (uint32_t n = 0; n < kKept; ++n) {
        const uint32_t i = 4 * (threadIdx.x + n * kThreads);
        if (i < args.width) write_normed(to + i, kept[n], scale, weights[n]);
    }
    for (uint32_t i = beyond; i < args.width; i += 4 * kThreads)
        write_normed(to + i, __ldcg(reinterpret_cast<const float4*>(x + i)), scale, *reinterpret_cast<const float4*>(args.weight + i));
}

template <class T>
__global__ void __launch_bounds__(kThreads) layer_norm_kernel(const NormArgs args) {
    __shared__ float scratch[2][kThreads / 32];
    const float* x = args.x + uint64_t{blockIdx.x} * args.width;
    T* to = static_cast<T*>(args.to) + uint64_t{blockIdx.x} * args.width;
    let_next_start();
    await_previous();
    float sum = 0.0f, squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < args.width; i += kThreads) sum += __ldcg(x + i);
    const float mean = block_sum(sum, scratch[0]) / args.width;
    for (uint32_t i = threadIdx.x; i < args.width; i += kThreads) {
        const float own = __ldcg(x + i) - mean;
        squares += own * own;
    }
    const float scale = rsqrtf(block_sum(squares, scratch[1]) / args.width + args.epsilon);
    for (uint32_t i = threadIdx.x; i < args.width; i += kThreads) {
        const float own = (__ldcg(x + i) - mean) * scale * args.weight[i];
        to[i] = rounded<T>(args.bias == nullptr ? own : own + args.bias[i]);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) round_kernel(const float* x, uint64_t n_eights, Eight<T>* to) {
    let_next_start();
    await_previous();
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n_eights) return;
    const float4 v[2] = {__ldcg(reinterpret_cast<const float4*>(x) + 2 * i), __ldcg(reinterpret_cast<const float4*>(x) + 2 * i + 1)};
    Eight<T> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) out.v[k] = rounded<T>(reinterpret_cast<const float*>(v)[k]);
    to[i] = out;
}

__global__ void __launch_bounds__(kThreads) add_branch_kernel(const AddBranchArgs args) {
    __shared__ float scratch[kThreads / 32];
    const float* branch = args.branch + uint64_t{blockIdx.x} * args.width;
    float* x = args.x + uint64_t{blockIdx.x} * args.width;
    let_next_start();
    await_previous();
    float scale = args.scale;
    if (args.weight != nullptr) {
        float squares = 0.0f;
        for (uint32_t i = threadIdx.x; i < args.width; i += kThreads) {
            const float own = __ldcg(branch + i);
            squares += own * own;
        }
        scale *= rsqrtf(block_sum(squares, scratch) / args.width + args.epsilon);
    }
    for (uint32_t i = threadIdx.x; i < args.width; i += kThreads) {
        const float own = __ldcg(branch + i) * scale;
        x[i] = __ldcg(x + i) + (args.weight == nullptr ? own : own * args.weight[i]);
    }
}

/// A warp a head.
template <class T, NormKind kKind>
__global__ void __launch_bounds__(32 * kHeadWarps) head_norm_kernel(const HeadNormArgs args) {
    let_next_start();
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t item = blockIdx.x * kHeadWarps + threadIdx.x / 32;
    const uint32_t heads = args.n_q_heads + args.n_k_heads;
    const uint32_t row = item / heads, head = item % heads;
    await_previous();
    if (row >= args.n_rows) return;
    T* values = static_cast<T*>(args.heads) + uint64_t{row} * args.row_stride + head * args.head_dim;
    const bool is_query = head < args.n_q_heads;
    const float* weight = (is_query ? args.q_weight : args.k_weight) + (is_query ? head : head - args.n_q_heads) * args.weight_step;
    float2 own[kMaxHeadPairs];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int n = 0; n < kMaxHeadPairs; ++n) {
        const uint32_t e = 2 * (lane + 32 * n);
        own[n] = e < args.head_dim ? load_two(values + e) : float2{};
        sum += own[n].x + own[n].y;
    }
    const float mean = kKind == NormKind::Layer ? warp_sum(sum) / args.head_dim : 0.0f;
#pragma unroll
    for (int n = 0; n < kMaxHeadPairs; ++n) {
        if constexpr (kKind == NormKind::Layer)
            if (2 * (lane + 32 * n) < args.head_dim) own[n] = {own[n].x - mean, own[n].y - mean};
        squares += own[n].x * own[n].x + own[n].y * own[n].y;
    }
    const float scale = rsqrtf(warp_sum(squares) / args.head_dim + args.epsilon);
#pragma unroll
    for (int n = 0; n < kMaxHeadPairs; ++n) {
        const uint32_t e = 2 * (lane + 32 * n);
        if (e >= args.head_dim) break;
        values[e] = rounded<T>(own[n].x * scale * weight[e]);
        values[e + 1] = rounded<T>(own[n].y * scale * weight[e + 1]);
    }
}

/// A block for the queries of a row and one for its keys.
template <class T>
__global__ void __launch_bounds__(kThreads) whole_head_norm_kernel(const HeadNormArgs args) {
    __shared__ float scratch[kThreads / 32];
    let_next_start();
    await_previous();
    const bool is_query = blockIdx.y == 0;
    const uint32_t width = (is_query ? args.n_q_heads : args.n_k_heads) * args.head_dim;
    const float* weight = is_query ? args.q_weight : args.k_weight;
    T* values = static_cast<T*>(args.heads) + uint64_t{blockIdx.x} * args.row_stride + (is_query ? 0 : args.n_q_heads * args.head_dim);
    float squares = 0.0f;
    for (uint32_t i = 2 * threadIdx.x; i < width; i += 2 * kThreads) {
        const float2 own = load_two(values + i);
        squares += own.x * own.x + own.y * own.y;
    }
    const float scale = rsqrtf(block_sum(squares, scratch) / width + args.epsilon);
    for (uint32_t i = 2 * threadIdx.x; i < width; i += 2 * kThreads) {
        const float2 own = load_two(values + i);
        values[i] = rounded<T>(own.x * scale * weight[i]);
        values[i + 1] = rounded<T>(own.y * scale * weight[i + 1]);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gate_multiply_kernel(Activation activation, const Eight<T>* gate_up, uint32_t eights, uint64_t n, Eight<T>* to) {
    let_next_start();
    await_previous();
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n) return;
    const uint64_t row = i / eights, column = i % eights;
    const Eight<T> gate = fresh(gate_up + row * 2 * eights + column), up = fresh(gate_up + row * 2 * eights + eights + column);
    Eight<T> out;
#pragma unroll
    for (int k = 0; k < 8; ++k) out.v[k] = rounded<T>(gated(activation, to_float(gate.v[k]), to_float(up.v[k])));
    to[i] = out;
}

__global__ void __launch_bounds__(kThreads)
    gate_multiply_f32_kernel(Activation activation, const float* gate_up, uint32_t rows, uint32_t width, float* to) {
    let_next_start();
    await_previous();
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= uint64_t{rows} * width) return;
    const float* gate = gate_up + i / width * 2 * width + i % width;
    to[i] = gated(activation, __ldcg(gate), __ldcg(gate + width));
}

__global__ void __launch_bounds__(kThreads) scale_and_cap_kernel(float* logits, uint64_t n, float scale, float cap) {
    let_next_start();
    await_previous();
    const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= n) return;
    const float logit = __ldcg(logits + i) * scale;
    logits[i] = cap == 0.0f ? logit : cap * tanhf(logit / cap);
}

/// One pass: every thread keeps a maximum and a sum of exponentials over its logits.
__global__ void __launch_bounds__(kScoreThreads)
    score_kernel(const float* logits, uint32_t n_vocab, const int32_t* targets, float2* scores) {
    __shared__ float maxima[kScoreThreads / 32], scratch[kScoreThreads / 32];
    logits += uint64_t{blockIdx.x} * n_vocab;
    float maximum = -INFINITY, sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < n_vocab; i += kScoreThreads) {
        const float logit = logits[i];
        if (logit > maximum) {
            sum *= __expf(maximum - logit);
            maximum = logit;
        }
        sum += __expf(logit - maximum);
    }
    float top = maximum;
    for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = top;
    __syncthreads();
    for (const float other : maxima) top = fmaxf(top, other);
    const float total = block_sum(maximum == -INFINITY ? 0.0f : sum * expf(maximum - top), scratch);
    if (threadIdx.x != 0) return;
    const int32_t target = targets[blockIdx.x];
    scores[blockIdx.x] = {isinf(top) ? top : top + logf(total), target < 0 ? -INFINITY : logits[target]};
}

uint32_t blocks_for(uint64_t threads) { return static_cast<uint32_t>((threads + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t norm(const Card& card, const NormArgs& args, cudaStream_t stream) {
    cudaError_t status = cudaSuccess;
    with_type(args.dtype, [&](auto type) {
        using T = decltype(type);
        if (args.weight == nullptr) {
            const uint64_t eights = uint64_t{args.rows} * args.width / 8;
            status = launch_overlapped(card, round_kernel<T>, dim3(blocks_for(eights)), kThreads, 0, stream, args.x, eights,
                                       static_cast<Eight<T>*>(args.to));
        } else if (args.kind == NormKind::Layer) {
            status = launch_overlapped(card, layer_norm_kernel<T>, dim3(args.rows), kThreads, 0, stream, args);
        } else {
            status = launch_overlapped(card, rms_norm_kernel<T>, dim3(args.rows), kThreads, 0, stream, args);
        }
    });
    return status;
}

cudaError_t add_branch(const Card& card, const AddBranchArgs& args, cudaStream_t stream) {
    return launch_overlapped(card, add_branch_kernel, dim3(args.rows), kThreads, 0, stream, args);
}

cudaError_t scale_and_cap(const Card& card, float* logits, uint64_t n, float scale, float cap, cudaStream_t stream) {
    return launch_overlapped(card, scale_and_cap_kernel, dim3(blocks_for(n)), kThreads, 0, stream, logits, n, scale, cap);
}

cudaError_t head_norm(const Card& card, const HeadNormArgs& args, cudaStream_t stream) {
    const uint32_t items = args.n_rows * (args.n_q_heads + args.n_k_heads);
    const dim3 grid((items + kHeadWarps - 1) / kHeadWarps);
    cudaError_t status = cudaSuccess;
    with_type(args.dtype, [&](auto type) {
        using T = decltype(type);
        const auto kernel = args.kind == NormKind::Layer ? head_norm_kernel<T, NormKind::Layer> : head_norm_kernel<T, NormKind::Rms>;
        status = launch_overlapped(card, kernel, grid, 32 * kHeadWarps, 0, stream, args);
    });
    return status;
}

cudaError_t whole_head_norm(const Card& card, const HeadNormArgs& args, cudaStream_t stream) {
    cudaError_t status = cudaSuccess;
    with_type(args.dtype, [&](auto type) {
        status = launch_overlapped(card, whole_head_norm_kernel<decltype(type)>, dim3(args.n_rows, 2), kThreads, 0, stream, args);
    });
    return status;
}

cudaError_t gate_multiply(const Card& card, Activation activation, const void* gate_up, uint32_t rows, uint32_t width, Dtype dtype,
                          void* to, cudaStream_t stream) {
    const uint64_t n = uint64_t{rows} * width / 8;
    cudaError_t status = cudaSuccess;
    with_type(dtype, [&](auto type) {
        using T = decltype(type);
        status = launch_overlapped(card, gate_multiply_kernel<T>, dim3(blocks_for(n)), kThreads, 0, stream, activation,
                                   static_cast<const Eight<T>*>(gate_up), width / 8, n, static_cast<Eight<T>*>(to));
    });
    return status;
}

cudaError_t gate_multiply_f32(const Card& card, Activation activation, const float* gate_up, uint32_t rows, uint32_t width, float* to,
                              cudaStream_t stream) {
    const dim3 grid(blocks_for(uint64_t{rows} * width));
    return launch_overlapped(card, gate_multiply_f32_kernel, grid, kThreads, 0, stream, activation, gate_up, rows, width, to);
}

cudaError_t score_tokens(const float* logits, uint32_t rows, uint32_t n_vocab, const int32_t* targets, float2* scores,
                         cudaStream_t stream) {
    score_kernel<<<rows, kScoreThreads, 0, stream>>>(logits, n_vocab, targets, scores);
    return cudaGetLastError();
}

}  // namespace dca::cuda
