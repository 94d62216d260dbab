#include "cuda/attention/prefill/dequantized.h"

#include <algorithm>

#include "core/positions/key_ranges.h"
#include "cuda/attention/hadamard.cuh"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q4_cache.cuh"
#include "cuda/attention/q8_cache.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

/// Eight values of a row of a Q8 cache.
__device__ __forceinline__ void read_q8(const uint8_t* row, __half scale, uint32_t vector, float (&v)[8]) {
    const uint2 bytes = __ldcs(reinterpret_cast<const uint2*>(row + vector * 8));
#pragma unroll
    for (int n = 0; n < 8; ++n) v[n] = q8_value((n < 4 ? bytes.x : bytes.y) >> n % 4 * 8, scale);
}

/// Tokens [0, n_keys) of heads [first_head, first_head + gridDim.y) to f16: keys where blockIdx.z is 0, values
/// where it is 1. `out` is (2, pages, gridDim.y, kPageTokens, head_dim), the pages in order; past n_keys it stays
/// as it is. A thread dequantizes 8 values. Fine codes of a Q4 cache are read from page `fresh_page` on.
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const LayerCache cache, const uint32_t* page_table, int n_kv_heads, int head_dim, uint32_t first_head,
                      uint32_t n_keys, uint32_t fresh_page, __half* out) {
    const size_t at = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint32_t vectors = head_dim / 8;
    const uint32_t vector = at % vectors;
    const auto token = static_cast<uint32_t>(min(at / vectors, size_t{n_keys} - 1));  // all lanes come to the turn
    const size_t from = HeadRows{page_table, static_cast<uint32_t>(n_kv_heads), first_head + blockIdx.y}.at(token);
    const bool of_keys = blockIdx.z == 0;
    const auto* data = static_cast<const uint8_t*>(of_keys ? cache.keys : cache.values);
    const void* scales = of_keys ? cache.key_scales : cache.value_scales;
    float v[8];
    if (cache.type == CacheType::Q8) {
        read_q8(data + from * head_dim, static_cast<const __half*>(scales)[from], vector, v);
    } else {
        const void* fine = of_keys ? cache.fine_keys : cache.fine_values;
        const uint8_t* fine_codes = token / kPageTokens >= fresh_page ? fine_row(cache, fine, from, n_kv_heads, head_dim) : nullptr;
        read_q4(data + from * (head_dim / 2), fine_codes, static_cast<const __half2*>(scales) + 2 * from, vector, vectors, v);
        if (of_keys) {
            const __half* centre = centre_of(cache, from / kPageTokens / n_kv_heads, first_head + blockIdx.y, head_dim) + vector * 8;
#pragma unroll
            for (int n = 0; n < 8; ++n) v[n] += __half2float(centre[n]);
        }
    }
    turn_eights(v, head_dim);
    if (at >= static_cast<size_t>(n_keys) * vectors) return;
    const uint4 values = {pack<__half>(v[0], v[1]), pack<__half>(v[2], v[3]), pack<__half>(v[4], v[5]), pack<__half>(v[6], v[7])};
    const size_t half = static_cast<size_t>(ceil_div(n_keys, kPageTokens)) * gridDim.y * kPageTokens;
    const size_t to = blockIdx.z * half + HeadRows{nullptr, gridDim.y, blockIdx.y}.at(token);
    reinterpret_cast<uint4*>(out)[to * vectors + vector] = values;
}

/// Key heads that the workspace holds at a time, and in how many passes that is all of them.
struct Passes {
    uint32_t heads, count;

    explicit Passes(const PrefillArgs& args) {
        const uint32_t kv_heads = args.shape.n_kv_heads;
        const size_t room = (args.workspace_bytes - kDequantizedOffset) / dequantized_head_bytes(args.shape, args.start + args.n_queries);
        count = ceil_div(kv_heads, static_cast<uint32_t>(std::min<size_t>(kv_heads, room)));
        heads = ceil_div(kv_heads, count);
    }
};

}  // namespace

bool has_room_to_dequantize(const PrefillArgs& args) {
    const uint64_t context = uint64_t{args.start} + args.n_queries;
    return args.workspace_bytes >= kDequantizedOffset + dequantized_head_bytes(args.shape, context);
}

bool dequantizing_pays(const Card& card, const PrefillArgs& args) {
    if (args.traits.window != 0) return false;  // most of the keys are seen by nobody
    if (!has_room_to_dequantize(args)) return false;
    // Dequantizing moves 10 bytes a value and the sm_80 kernel runs at half the speed: even at about 270
    // queries a key head, counting the query heads that share it, or where these leave multiprocessors idle at fewer.
    constexpr uint64_t kLeastQueries = 512;
    const uint32_t group = args.shape.n_heads / args.shape.n_kv_heads, blocks = ceil_div(args.n_queries, kPageTokens);
    const uint32_t idle = std::max(1u, card.multiprocessors / (args.shape.n_heads * blocks));
    const bool splits = variant_of(args) == Variant::Plain && args.start >= 2 * kLeastPartKeys;
    if (uint64_t{args.n_queries} * group * (splits ? idle : 1) < kLeastQueries) return false;
    if (splits) return true;
    // A pass of a few heads over few queries leaves multiprocessors idle.
    const Passes passes(args);
    const auto rounds = [&](uint32_t heads) { return ceil_div(heads * blocks, card.multiprocessors); };
    return passes.count * rounds(passes.heads * group) <= 2 * rounds(args.shape.n_heads);
}

cudaError_t launch_prefill_dequantized(const Card& card, const PrefillArgs& args, PrefillLaunch kernel, cudaStream_t stream) {
    const uint32_t n_keys = args.start + args.n_queries;
    const uint32_t kv_heads = args.shape.n_kv_heads, group = args.shape.n_heads / args.shape.n_kv_heads;
    const uint32_t heads_at_once = Passes(args).heads;
    __half* dequantized = reinterpret_cast<__half*>(static_cast<uint8_t*>(args.workspace) + kDequantizedOffset);

    for (uint32_t first = 0; first < kv_heads; first += heads_at_once) {
        const uint32_t heads = std::min(heads_at_once, kv_heads - first);
        const size_t vectors = static_cast<size_t>(n_keys) * (args.shape.head_dim / 8);
        const dim3 grid(static_cast<uint32_t>((vectors + kThreads - 1) / kThreads), heads, 2);
        dequantize_kernel<<<grid, kThreads, 0, stream>>>(args.cache, args.page_table, args.shape.n_kv_heads, args.shape.head_dim, first,
                                                         n_keys, args.fresh_page, dequantized);
        cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return error;

        const size_t first_value = static_cast<size_t>(first) * group * args.shape.head_dim;
        PrefillArgs part = args;
        part.shape.n_kv_heads = heads;
        part.shape.n_heads = heads * group;
        const size_t half = size_t{pages_for(n_keys)} * heads * kPageTokens * args.shape.head_dim;
        part.cache = {dequantized, dequantized + half, nullptr, nullptr, pages_for(n_keys), CacheType::F16};
        part.page_table = nullptr;
        if (args.traits.sinks) part.traits.sinks = args.traits.sinks + size_t{first} * group;
        part.q = static_cast<const uint16_t*>(args.q) + first_value;
        part.out = static_cast<uint16_t*>(args.out) + first_value;
        part.lists = args.lists.from_head(first * group);
        error = kernel(card, part, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

}  // namespace dca::cuda
