#include "cuda/attention/prefill/dequantized.h"

#include <algorithm>

#include "core/positions/key_ranges.h"
#include "cuda/attention/pages.cuh"
#include "cuda/attention/q8_cache.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 256;

/// Tokens [0, n_keys) of heads [first_head, first_head + gridDim.y) to f16: keys where blockIdx.z is 0, values
/// where it is 1. `out` is (2, pages, gridDim.y, kPageTokens, head_dim), the pages in order; past n_keys it stays
/// as it is. A thread dequantizes 8 bytes.
__global__ void __launch_bounds__(kThreads) dequantize_kernel(const LayerCache cache, const uint32_t* page_table, int n_kv_heads,
                                                              int head_dim, uint32_t first_head, uint32_t n_keys, __half* out) {
    const size_t at = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x;
    const uint32_t vectors = head_dim / 8;
    if (at >= static_cast<size_t>(n_keys) * vectors) return;
    const uint32_t token = static_cast<uint32_t>(at / vectors), vector = at % vectors;
    const size_t from = HeadRows{page_table, static_cast<uint32_t>(n_kv_heads), first_head + blockIdx.y}.at(token);
    const uint8_t* bytes = static_cast<const uint8_t*>(blockIdx.z == 0 ? cache.keys : cache.values) + from * head_dim + vector * 8;
    const __half scale = static_cast<const __half*>(blockIdx.z == 0 ? cache.key_scales : cache.value_scales)[from];
    const uint4 values = dequantize_eight(__ldcs(reinterpret_cast<const uint2*>(bytes)), scale);
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

bool dequantizing_pays(const Card& card, const PrefillArgs& args) {
    if (args.traits.window != 0) return false;  // most of the keys are seen by nobody
    // Dequantizing moves 10 bytes a value and the sm_80 kernel runs at half the speed: even at about 270
    // queries a key head, counting the query heads that share it.
    constexpr uint64_t kLeastQueries = 512;
    const uint64_t context = uint64_t{args.start} + args.n_queries;
    const uint64_t queries = uint64_t{args.n_queries} * (args.shape.n_heads / args.shape.n_kv_heads);
    if (queries < kLeastQueries || args.workspace_bytes < kDequantizedOffset + dequantized_head_bytes(args.shape, context)) return false;
    // A pass of a few heads over few queries leaves multiprocessors idle, the last tokens of a prompt of a million for instance.
    const Passes passes(args);
    const uint32_t group = args.shape.n_heads / args.shape.n_kv_heads, blocks = ceil_div(args.n_queries, kPageTokens);
    const auto rounds = [&](uint32_t heads) { return ceil_div(heads * blocks, card.multiprocessors); };
    return passes.count * rounds(passes.heads * group) <= 2 * rounds(args.shape.n_heads);
}

cudaError_t launch_prefill_dequantized(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    const uint32_t n_keys = args.start + args.n_queries;
    const uint32_t kv_heads = args.shape.n_kv_heads, group = args.shape.n_heads / args.shape.n_kv_heads;
    const uint32_t heads_at_once = Passes(args).heads;
    __half* dequantized = reinterpret_cast<__half*>(static_cast<uint8_t*>(args.workspace) + kDequantizedOffset);

    for (uint32_t first = 0; first < kv_heads; first += heads_at_once) {
        const uint32_t heads = std::min(heads_at_once, kv_heads - first);
        const size_t vectors = static_cast<size_t>(n_keys) * (args.shape.head_dim / 8);
        const dim3 grid(static_cast<uint32_t>((vectors + kThreads - 1) / kThreads), heads, 2);
        dequantize_kernel<<<grid, kThreads, 0, stream>>>(args.cache, args.page_table, args.shape.n_kv_heads, args.shape.head_dim, first,
                                                         n_keys, dequantized);
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
        error = launch_prefill_sm90(card, part, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

}  // namespace dca::cuda
