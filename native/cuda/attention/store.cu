// Rotates keys and writes keys and values into the cache: one warp a row and head.
#include "core/positions/key_ranges.h"
#include "cuda/attention/kernels.h"
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
    let_next_start();
    await_previous();
    const AttentionShape& shape = args.shape;
    const int lane = threadIdx.x % 32;
    const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
    const uint32_t source = item / shape.n_kv_heads, head = item % shape.n_kv_heads;
    if (source >= args.n_rows) return;
    const uint32_t page = args.places[source] / kPageTokens;
    if (page >= args.cache.pages) return;
    const uint32_t position = args.scheme.key_position(args.indices[source]);
    const float2* cos_sin = args.rotary.cos_sin + static_cast<size_t>(position) * (shape.rotary_dim / 2);
    const size_t k_row = source * args.k_stride + head * shape.head_dim, v_row = source * args.v_stride + head * shape.head_dim;

    float2 keys[kMaxPairs] = {}, values[kMaxPairs] = {};
    for (int n = 0; n < kMaxPairs; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e >= shape.head_dim) break;
        values[n] = {load_element(args.v, v_row + e, args.dtype), load_element(args.v, v_row + e + 1, args.dtype)};
        keys[n] = {rotated_element(shape, args.k, k_row, e, args.dtype, cos_sin),
                   rotated_element(shape, args.k, k_row, e + 1, args.dtype, cos_sin)};
    }
    const size_t row = (static_cast<size_t>(page) * shape.n_kv_heads + head) * kPageTokens + args.places[source] % kPageTokens;
    write_row(args.cache.keys, args.cache.key_scales, args.cache.type, row, shape.head_dim, keys);
    write_row(args.cache.values, args.cache.value_scales, args.cache.type, row, shape.head_dim, values);
}

}  // namespace

cudaError_t launch_store(const Card& card, const StoreArgs& args, cudaStream_t stream) {
    const uint32_t blocks = ceil_div(args.n_rows * args.shape.n_kv_heads, kWarps);
    return launch_overlapped(card, store_kernel, dim3(blocks), 32 * kWarps, 0, stream, args);
}

}  // namespace dca::cuda
