// Rotates keys and writes keys and values into the cache: one warp a token and head.
#include "cuda/attention_kernels.h"
#include "cuda/device_math.cuh"

namespace dca::cuda {
namespace {

constexpr int kMaxPairs = 4;  // of neighbouring values a lane; head_dim <= 256
constexpr int kWarps = 4;

__device__ float warp_maximum(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

/// The least scale of at most seven significant bits whose multiples up to 127 reach `largest`.
__device__ __half byte_scale(float largest) {
    constexpr float kMostScale = 56.5f;            // 1152 times it is still an f16
    constexpr uint32_t kLostBits = (1u << 17) - 1;  // of f32's 23 behind the point, six remain
    const uint32_t bits = __float_as_uint(fminf(largest / 127.0f, kMostScale));
    return __float2half_ru(__uint_as_float((bits + kLostBits) & ~kLostBits));
}

/// Writes one row; this lane holds values 2 (lane + 32 n) and the next.
__device__ void write_row(void* data, void* scales, CacheDtype dtype, size_t row, int head_dim, const float2 (&values)[kMaxPairs]) {
    const int lane = threadIdx.x % 32;
    float inverse = 0.0f;
    if (dtype == CacheDtype::Q8) {
        float largest = 0.0f;
        for (const float2& v : values) largest = fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y)));
        const __half scale = byte_scale(warp_maximum(largest));
        inverse = __half2float(scale) > 0.0f ? 1.0f / __half2float(scale) : 0.0f;
        if (lane == 0) static_cast<__half*>(scales)[row] = scale;
    }
    for (int n = 0; n < kMaxPairs; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e >= head_dim) break;
        const size_t at = row * head_dim + e;
        const float2 v = values[n];
        if (dtype == CacheDtype::Q8) {
            const auto quantised = [&](float x) { return static_cast<uint8_t>(128 + max(-127, min(127, __float2int_rn(x * inverse)))); };
            *reinterpret_cast<uchar2*>(static_cast<uint8_t*>(data) + at) = make_uchar2(quantised(v.x), quantised(v.y));
        } else {
            *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(data) + at) = pack(v.x, v.y, dtype == CacheDtype::F16 ? Dtype::F16 : Dtype::BF16);
        }
    }
}

__global__ void __launch_bounds__(32 * kWarps) store_kernel(const StoreArgs args) {
    const AttentionShape& shape = args.shape;
    const int lane = threadIdx.x % 32;
    const uint32_t item = blockIdx.x * kWarps + threadIdx.x / 32;
    const uint32_t token = item / shape.n_kv_heads, head = item % shape.n_kv_heads;
    if (token >= args.n_tokens) return;
    const uint32_t first = args.length ? *args.length - args.n_tokens : args.start;
    const uint32_t i = first + token;
    if (i >= args.cache.capacity) return;  // also where *length < n_tokens
    const size_t position = i % args.scheme.chunk_size;
    const int half = shape.rotary_dim / 2;
    const size_t k_row = token * args.k_stride + head * shape.head_dim, v_row = token * args.v_stride + head * shape.head_dim;

    float2 keys[kMaxPairs] = {}, values[kMaxPairs] = {};
    for (int n = 0; n < kMaxPairs; ++n) {
        const int e = 2 * (lane + 32 * n);
        if (e >= shape.head_dim) break;
        values[n] = {load_element(args.v, v_row + e, args.dtype), load_element(args.v, v_row + e + 1, args.dtype)};
        const auto rotated = [&](int element) {
            const float own = load_element(args.k, k_row + element, args.dtype);
            if (element >= shape.rotary_dim) return own;
            const bool is_first = shape.rope_interleaved ? element % 2 == 0 : element < half;
            const int pair = shape.rope_interleaved ? element / 2 : element % half;
            const int partner = shape.rope_interleaved ? element ^ 1 : (is_first ? element + half : element - half);
            const float other = load_element(args.k, k_row + partner, args.dtype);
            const float2 cs = args.rotary.cos_sin[position * half + pair];
            return is_first ? own * cs.x - other * cs.y : own * cs.x + other * cs.y;
        };
        keys[n] = {rotated(e), rotated(e + 1)};
    }
    const size_t row = static_cast<size_t>(head) * args.cache.capacity + i;
    write_row(args.cache.keys, args.cache.key_scales, args.cache.dtype, row, shape.head_dim, keys);
    write_row(args.cache.values, args.cache.value_scales, args.cache.dtype, row, shape.head_dim, values);
}

}  // namespace

cudaError_t launch_store(const StoreArgs& args, cudaStream_t stream) {
    const uint32_t blocks = ceil_div(args.n_tokens * args.shape.n_kv_heads, kWarps);
    store_kernel<<<blocks, 32 * kWarps, 0, stream>>>(args);
    return cudaGetLastError();
}

}  // namespace dca::cuda
