// Rotates keys and writes keys and values into the cache, and turns outputs back where it holds codes: one warp a row and head,
// of keys and of values apart.
#include "core/positions/key_ranges.h"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/kernels.h"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/device/launch.h"

namespace dca::cuda {
namespace {

constexpr int kMaxPairs = 4;  // of neighbouring values a lane; head_dim <= 256
constexpr int kWarps = 4;

__device__ float warp_maximum(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

/// A row of codes and fine codes on their way to being two a byte.
struct CodeRow {
    uint8_t codes[256], fine[256];
};

/// Writes one row of a Q4 cache; `fine` is where its fine codes go, null: nowhere.
__device__ void write_q4_row(void* data, void* scales, uint8_t* fine, size_t row, int head_dim, const float2 (&values)[kMaxPairs],
                             CodeRow& shared) {
    const int lane = threadIdx.x % 32, half = head_dim / 2;
    const auto affine_of = [&](int first) {
        float low = INFINITY, high = -INFINITY;
        bool finite = true;
        for (int n = 0; n < kMaxPairs; ++n) {
            const int e = 2 * (lane + 32 * n);
            if (e < first || e >= first + half) continue;
            const float2 v = values[n];
            low = fminf(low, fminf(v.x, v.y)), high = fmaxf(high, fmaxf(v.x, v.y));
            finite = finite && isfinite(v.x) && isfinite(v.y);
        }
        return Affine(-warp_maximum(-low), warp_maximum(high), __all_sync(~0u, finite));
    };
    const Affine by_low = affine_of(0), by_high = affine_of(half);
    if (lane < 2) static_cast<__half2*>(scales)[2 * row + lane] = lane == 0 ? by_low.stored : by_high.stored;
    for (int n = 0; n < kMaxPairs && 2 * (lane + 32 * n) < head_dim; ++n) {
        const int e = 2 * (lane + 32 * n);
        const Affine& by = e < half ? by_low : by_high;
        const FineCode first(values[n].x, by), second(values[n].y, by);
        shared.codes[e] = first.code, shared.codes[e + 1] = second.code;
        shared.fine[e] = first.fine, shared.fine[e + 1] = second.fine;
    }
    __syncwarp();
    for (int e = lane; e < half; e += 32) {
        static_cast<uint8_t*>(data)[row * half + e] = shared.codes[e] | shared.codes[e + half] << 4;
        if (fine != nullptr) fine[e] = shared.fine[e] | shared.fine[e + half] << 4;
    }
    __syncwarp();
}

/// Writes one row; this lane holds values 2 (lane + 32 n) and the next.
__device__ void write_row(void* data, void* scales, CacheType type, size_t row, int head_dim, const float2 (&values)[kMaxPairs]) {
    const int lane = threadIdx.x % 32;
    float inverse = 0.0f;
    if (type == CacheType::Q8) {
        float largest = 0.0f;
        for (const float2& v : values) largest = fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y)));
        const __half scale = q8_scale(warp_maximum(largest));
        inverse = __half2float(scale) > 0.0f ? 1.0f / __half2float(scale) : 0.0f;
        if (lane == 0) static_cast<__half*>(scales)[row] = scale;
    }
    for (int n = 0; n < kMaxPairs; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e >= head_dim) break;
        const size_t at = row * head_dim + e;
        const float2 v = values[n];
        if (type == CacheType::Q8) {
            *reinterpret_cast<uchar2*>(static_cast<uint8_t*>(data) + at) = make_uchar2(q8_byte(v.x, inverse), q8_byte(v.y, inverse));
        } else {
            *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(data) + at) =
                pack(v.x, v.y, type == CacheType::F16 ? Dtype::F16 : Dtype::BF16);
        }
    }
}

__global__ void __launch_bounds__(32 * kWarps) store_kernel(const __grid_constant__ StoreArgs args) {
    const bool early = args.n_rows > 1;  // the step's input is there
    // Of one row decode attention reads the step's input, and older pages, while this runs (DecodeArgs::after_store).
    if (!early) await_previous();
    let_next_start();
    const AttentionShape& shape = args.shape;
    const LayerCache& cache = args.cache;
    const int lane = threadIdx.x % 32;
    const uint32_t item = (blockIdx.x * kWarps + threadIdx.x / 32) / 2;
    const bool of_keys = threadIdx.x / 32 % 2 == 0;
    const uint32_t source = item / shape.n_kv_heads, head = item % shape.n_kv_heads;
    const uint32_t place = source < args.n_rows ? __ldcg(args.places + source) : ~0u, page = place / kPageTokens;
    const bool stores = page < cache.pages;
    float2 turn[kMaxPairs][2] = {};
    if (stores && of_keys) {
        const uint32_t position = args.scheme.key_position(__ldcg(args.indices + source));
        const float2* cos_sin = args.rotary.cos_sin + static_cast<size_t>(position) * (shape.rotary_dim / 2);
#pragma unroll
        for (int n = 0; n < kMaxPairs; ++n) {
            const int e = 2 * (lane + 32 * n);
            if (e >= shape.head_dim) break;
            turn[n][0] = RotatedElement(shape, e).turn(cos_sin, e);
            turn[n][1] = RotatedElement(shape, e + 1).turn(cos_sin, e + 1);
        }
    }
    if (early) await_previous();
    if (!stores) return;
    const size_t from = source * (of_keys ? args.k_stride : args.v_stride) + head * shape.head_dim;

    float2 values[kMaxPairs] = {};
#pragma unroll
    for (int n = 0; n < kMaxPairs; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e >= shape.head_dim) break;
        if (of_keys)
            values[n] = {RotatedElement(shape, e).load(args.k, from, e, args.dtype, turn[n][0]),
                         RotatedElement(shape, e + 1).load(args.k, from, e + 1, args.dtype, turn[n][1])};
        else
            values[n] = {load_element(args.v, from + e, args.dtype), load_element(args.v, from + e + 1, args.dtype)};
    }
    const size_t row = (static_cast<size_t>(page) * shape.n_kv_heads + head) * kPageTokens + place % kPageTokens;
    void *data = of_keys ? cache.keys : cache.values, *scales = of_keys ? cache.key_scales : cache.value_scales;
    if (holds_codes(cache.type)) turn_pairs(values, shape.head_dim);
    if (cache.type != CacheType::Q4) return write_row(data, scales, cache.type, row, shape.head_dim, values);
    __shared__ CodeRow codes[kWarps];
    if (of_keys) {
        const __half* centre = centre_of(cache, page, head, shape.head_dim);
        for (int n = 0; n < kMaxPairs && 2 * (lane + 32 * n) < shape.head_dim; ++n) {
            const float2 of_pair = __half22float2(*reinterpret_cast<const __half2*>(centre + 2 * (lane + 32 * n)));
            values[n] = {values[n].x - of_pair.x, values[n].y - of_pair.y};
        }
    }
    const uint8_t* fine = fine_row(cache, of_keys ? cache.fine_keys : cache.fine_values, row, shape.n_kv_heads, shape.head_dim);
    write_q4_row(data, scales, const_cast<uint8_t*>(fine), row, shape.head_dim, values, codes[threadIdx.x / 32]);
}

/// A page's keys of one head, a warp a row at a time.
__global__ void __launch_bounds__(32 * kWarps) settle_kernel(const AttentionShape shape, const LayerCache cache, const FilledPages pages) {
    __shared__ float before[256], centre[256];
    __shared__ CodeRow codes[kWarps];
    const int head_dim = shape.head_dim, half = head_dim / 2, head = blockIdx.y;
    const uint32_t page = pages.page[blockIdx.x];
    const size_t first = (static_cast<size_t>(page) * shape.n_kv_heads + head) * kPageTokens;
    const auto* data = static_cast<const uint8_t*>(cache.keys);
    const auto* affine = static_cast<const __half2*>(cache.key_scales);
    uint8_t* fine = const_cast<uint8_t*>(fine_row(cache, cache.fine_keys, first, shape.n_kv_heads, head_dim));
    __half* kept = const_cast<__half*>(centre_of(cache, page, head, head_dim));
    // As it is coded now.
    const auto value = [&](int row, int e) {
        const __half2 by = affine[2 * (first + row) + (e < half ? 0 : 1)];
        float code = static_cast<float>(q4_code(data + (first + row) * half, e, head_dim));
        if (fine) code += (static_cast<float>(q4_code(fine + static_cast<size_t>(row) * half, e, head_dim)) - 8.0f) / 16.0f;
        return code * __low2float(by) + __high2float(by) + before[e];
    };
    for (int e = threadIdx.x; e < head_dim; e += 32 * kWarps) {
        before[e] = __half2float(kept[e]);
        float sum = 0.0f;
        for (int row = 0; row < static_cast<int>(kPageTokens); ++row) sum += value(row, e);
        const float mean = pages.first[blockIdx.x] ? value(0, e) : sum / kPageTokens;
        const __half rounded = __float2half_rn(fabsf(mean) < 65504.0f ? mean : 0.0f);
        centre[e] = __half2float(rounded);
        kept[e] = rounded;
    }
    __syncthreads();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int row = warp; row < static_cast<int>(kPageTokens); row += kWarps) {
        float2 values[kMaxPairs] = {};
        for (int n = 0; n < kMaxPairs && 2 * (lane + 32 * n) < head_dim; ++n) {
            const int e = 2 * (lane + 32 * n);
            values[n] = {value(row, e) - centre[e], value(row, e + 1) - centre[e + 1]};
        }
        uint8_t* fine_at = fine ? fine + static_cast<size_t>(row) * half : nullptr;
        __syncwarp();  // all of the row is read
        write_q4_row(cache.keys, cache.key_scales, fine_at, first + row, head_dim, values, codes[warp]);
    }
}

__global__ void __launch_bounds__(32 * kWarps) turn_kernel(const TurnArgs args) {
    const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
    const uint32_t row = item / args.shape.n_heads, head = item % args.shape.n_heads;
    if (row >= args.n_rows || (args.rows && args.rows[row].length == 0)) return;
    const int lane = threadIdx.x % 32, head_dim = args.shape.head_dim;
    uint16_t* at = static_cast<uint16_t*>(args.out) + row * args.stride + static_cast<int64_t>(head) * head_dim + 2 * lane;
    float2 values[kMaxPairs] = {};
    for (int n = 0; n < kMaxPairs; ++n)
        if (2 * (lane + 32 * n) < head_dim) values[n] = unpack(*reinterpret_cast<const uint32_t*>(at + 64 * n), args.dtype);
    turn_pairs(values, head_dim);
    for (int n = 0; n < kMaxPairs; ++n)
        if (2 * (lane + 32 * n) < head_dim) *reinterpret_cast<uint32_t*>(at + 64 * n) = pack(values[n].x, values[n].y, args.dtype);
}

}  // namespace

cudaError_t launch_turn_back(const TurnArgs& args, cudaStream_t stream) {
    turn_kernel<<<ceil_div(args.n_rows * args.shape.n_heads, kWarps), 32 * kWarps, 0, stream>>>(args);
    return cudaGetLastError();
}

cudaError_t launch_settle(const AttentionShape& shape, const LayerCache& cache, const FilledPages& pages, cudaStream_t stream) {
    const dim3 grid(pages.count, shape.n_kv_heads);
    settle_kernel<<<grid, 32 * kWarps, 0, stream>>>(shape, cache, pages);
    return cudaGetLastError();
}

cudaError_t launch_store(const Card& card, const StoreArgs& args, cudaStream_t stream) {
    const uint32_t blocks = ceil_div(2 * args.n_rows * args.shape.n_kv_heads, kWarps);
    return launch_overlapped(card, store_kernel, dim3(blocks), 32 * kWarps, 0, stream, args);
}

}  // namespace dca::cuda
