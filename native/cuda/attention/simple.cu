// The oracle of the fast kernels, and the kernel for what they do not cover: one warp per query and head, f32
// throughout, the key ranges one after the other. In decode, where queries are few, many warps share a query's keys.
#include "core/positions/key_ranges.h"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/kernels.h"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/attention/q8_cache.cuh"
#include "cuda/attention/query_rotation.cuh"
#include "cuda/attention/softmax.cuh"
#include "cuda/attention/variants.h"

namespace dca::cuda {
namespace {

constexpr int kMaxPerLane = 8;  // head_dim <= 256
constexpr int kWarps = 4;
constexpr int kDecodeWarps = 32;  // a key's loads wait for each other, so one warp takes microseconds for each

struct CacheReader {
    LayerCache cache;
    int head_dim, n_kv_heads;

    /// `fresh`: fine codes are read.
    __device__ float key(size_t row, int e, bool fresh) const {
        const float value = read(cache.keys, cache.key_scales, fresh ? cache.fine_keys : nullptr, row, e);
        if (cache.type != CacheType::Q4) return value;
        const size_t head_row = row / kPageTokens;
        return value + __half2float(centre_of(cache, head_row / n_kv_heads, head_row % n_kv_heads, head_dim)[e]);
    }
    __device__ float value(size_t row, int e, bool fresh) const {
        return read(cache.values, cache.value_scales, fresh ? cache.fine_values : nullptr, row, e);
    }

private:
    __device__ float read(const void* data, const void* scales, const void* fine, size_t row, int e) const {
        if (cache.type == CacheType::Q4) {
            const __half2 by = static_cast<const __half2*>(scales)[2 * row + (e < head_dim / 2 ? 0 : 1)];
            float code = static_cast<float>(q4_code(static_cast<const uint8_t*>(data) + row * (head_dim / 2), e, head_dim));
            const uint8_t* fine_codes = fine ? fine_row(cache, fine, row, n_kv_heads, head_dim) : nullptr;
            if (fine_codes) code += (static_cast<float>(q4_code(fine_codes, e, head_dim)) - 8.0f) / 16.0f;
            return code * __low2float(by) + __high2float(by);
        }
        const size_t at = row * head_dim + e;
        if (cache.type == CacheType::F16) return __half2float(static_cast<const __half*>(data)[at]);
        if (cache.type == CacheType::BF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at]);
        return q8_value(static_cast<const uint8_t*>(data)[at], static_cast<const __half*>(scales)[row]);
    }
};

/// kShared: all warps of a block share the keys of one query; else each has a query of its own.
template <int kBlockWarps, bool kShared>
__global__ void __launch_bounds__(32 * kBlockWarps) simple_kernel(const PrefillArgs args, const DecodeRow* rows) {
    const AttentionShape& shape = args.shape;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t query = kShared ? blockIdx.x : blockIdx.x * kBlockWarps + warp;
    const int head = blockIdx.y;
    if (query >= args.n_queries || (rows && rows[query].length == 0)) return;

    const uint32_t i = rows ? rows[query].length - 1 : args.start + query;
    const uint32_t chunk = i / args.scheme.chunk_size;
    const float factor = args.scheme.logit_factor(i);
    const size_t q_row = static_cast<size_t>(query) * args.q_stride + static_cast<size_t>(head) * shape.head_dim;
    const HeadRows cache_rows{args.page_table + (rows ? rows[query].first_page : 0), static_cast<uint32_t>(shape.n_kv_heads),
                              static_cast<uint32_t>(head / (shape.n_heads / shape.n_kv_heads))};
    const CacheReader cache{args.cache, shape.head_dim, shape.n_kv_heads};
    const uint32_t fresh = (rows ? rows[query].fresh_page : args.fresh_page) * kPageTokens;

    float q[kMaxPerLane], acc[kMaxPerLane] = {};  // elements lane, lane + 32, ...
    float maximum = kNoMaximum, sum = 0.0f;
    for (uint32_t range = 0; range < range_count(args.scheme, chunk, i + 1); ++range) {
        const uint32_t position = args.scheme.query_position(static_cast<Range>(range), i - chunk * args.scheme.chunk_size);
        const float2* cos_sin = args.rotary.cos_sin + static_cast<size_t>(position) * (shape.rotary_dim / 2);
        for (int n = 0; n < kMaxPerLane; ++n) {
            const int e = lane + 32 * n;
            q[n] = 0.0f;
            if (e >= shape.head_dim) continue;
            q[n] = rotated_element(shape, args.q, q_row, e, args.dtype, cos_sin) * factor;
        }
        if (holds_codes(args.cache.type)) turn_singles(q, shape.head_dim);

        const KeyRange keys = key_range(args.scheme, chunk, static_cast<Range>(range), i + 1);
        const uint32_t first = first_of_range(args.scheme, static_cast<Range>(range), keys, i, args.traits.window);
        for (uint32_t key = first + (kShared ? warp : 0); key < keys.end; key += kShared ? kBlockWarps : 1) {
            const size_t row = cache_rows.at(key);
            float dot = 0.0f;
            for (int n = 0; n < kMaxPerLane; ++n)
                if (lane + 32 * n < shape.head_dim) dot += q[n] * cache.key(row, lane + 32 * n, key >= fresh);
            for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
            const float scaled = dot * shape.scale, cap = args.traits.cap;
            const float logit = cap == 0.0f ? scaled : cap * tanhf(scaled / cap);
            const float raised = fmaxf(maximum, logit);
            const float keep = expf(maximum - raised), weight = expf(logit - raised);
            maximum = raised;
            sum = sum * keep + weight;
            for (int n = 0; n < kMaxPerLane; ++n)
                if (lane + 32 * n < shape.head_dim) acc[n] = acc[n] * keep + weight * cache.value(row, lane + 32 * n, key >= fresh);
        }
    }
    if constexpr (kShared) {
        __shared__ float parts[kBlockWarps][32 * kMaxPerLane], softmax[kBlockWarps][2];  // of each warp: acc; maximum, sum
        for (int n = 0; n < kMaxPerLane; ++n) parts[warp][lane + 32 * n] = acc[n];
        if (lane == 0) softmax[warp][0] = maximum, softmax[warp][1] = sum;
        __syncthreads();
        if (warp != 0) return;
        for (int part = 1; part < kBlockWarps; ++part) maximum = fmaxf(maximum, softmax[part][0]);
        sum = 0.0f;
        for (float& value : acc) value = 0.0f;
        for (int part = 0; part < kBlockWarps; ++part) {
            const float weight = expf(softmax[part][0] - maximum);
            sum += weight * softmax[part][1];
            for (int n = 0; n < kMaxPerLane; ++n) acc[n] += weight * parts[part][lane + 32 * n];
        }
    }
    if (args.traits.sinks) sum += expf(args.traits.sinks[head] - maximum);
    if (holds_codes(args.cache.type)) turn_singles(acc, shape.head_dim);
    const size_t out_row = static_cast<size_t>(query) * args.out_stride + static_cast<size_t>(head) * shape.head_dim;
    for (int n = 0; n < kMaxPerLane; ++n)
        if (lane + 32 * n < shape.head_dim) store_element(args.out, out_row + lane + 32 * n, args.dtype, acc[n] / sum);
}

}  // namespace

cudaError_t launch_simple(const PrefillArgs& args, const DecodeRow* rows, cudaStream_t stream) {
    const auto heads = static_cast<unsigned>(args.shape.n_heads);
    if (rows)
        simple_kernel<kDecodeWarps, true><<<dim3(args.n_queries, heads), 32 * kDecodeWarps, 0, stream>>>(args, rows);
    else
        simple_kernel<kWarps, false><<<dim3(ceil_div(args.n_queries, kWarps), heads), 32 * kWarps, 0, stream>>>(args, rows);
    return cudaGetLastError();
}

}  // namespace dca::cuda
