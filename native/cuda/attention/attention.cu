// Checks arguments and picks a kernel.
#include "cuda/attention/attention.h"

#include <algorithm>

#include "cuda/attention/kernels.h"
#include "cuda/attention/prefill/dequantized.h"

namespace dca::cuda {
namespace {

bool aligned_16(const void* pointer) { return pointer && reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool valid_shape(const AttentionShape& s) {
    return s.n_kv_heads > 0 && s.n_heads > 0 && s.n_heads % s.n_kv_heads == 0 && s.head_dim > 0 && s.head_dim <= 256 &&
           s.head_dim % 2 == 0 && s.rotary_dim >= 0 && s.rotary_dim <= s.head_dim && s.rotary_dim % 2 == 0 && s.scale > 0.0f;
}

/// Whether the scheme makes sense and the table has every position that `context` tokens use.
bool valid_positions(const Scheme& s, const RotaryTable& rotary, const AttentionShape& shape, uint32_t context) {
    if (s.chunk_size == 0 || s.chunk_size > Scheme::kEndless || context > Scheme::kEndless ||
        (s.logit_scale != 0.0f && s.logit_scale_length == 0) || (s.moves() && (!s.endless() || s.window == 0)))
        return false;
    uint32_t positions = std::min(s.chunk_size, context);
    if (context > s.chunk_size && !s.intra_only) {
        if (s.pretraining_length == 0) return false;
        positions = std::max(positions, s.pretraining_length);
    }
    return shape.rotary_dim == 0 || (aligned_16(rotary.cos_sin) && rotary.n_positions >= positions);
}

bool valid_cache(const LayerCache& c, const AttentionShape& shape) {
    const bool scales = !holds_codes(c.type) || (c.key_scales && c.value_scales);
    const bool fine = c.type != CacheType::Q4 || (c.fine_slots && aligned_16(c.fine_keys) && aligned_16(c.fine_values) &&
                                                  aligned_16(c.key_centres) && c.centre_stride % 8 == 0);
    const int features = c.type == CacheType::Q4 ? 32 : c.type == CacheType::Q8 ? 8 : 1;
    return c.type != CacheType::F32 && aligned_16(c.keys) && aligned_16(c.values) && scales && fine && c.pages > 0 &&
           c.pages <= Scheme::kEndless / kPageTokens && shape.head_dim % features == 0;
}

}  // namespace

WorkOrder make_work_order(const Card& card, const PrefillArgs& args, uint32_t n_blocks) {
    const uint64_t element_bytes = args.cache.type == CacheType::Q8 ? 1 : 2;
    const uint64_t head_bytes = 2 * (uint64_t{args.start} + args.n_queries) * args.shape.head_dim * element_bytes;
    // Half the cache: it also holds queries and output, and Hopper's two halves may hold copies.
    const uint64_t kv_heads = std::clamp<uint64_t>(card.l2_bytes / 2 / head_bytes, 1, args.shape.n_kv_heads);
    const uint32_t group = args.shape.n_heads / args.shape.n_kv_heads;
    return {n_blocks, static_cast<uint32_t>(args.shape.n_heads), static_cast<uint32_t>(kv_heads) * group};
}

size_t prefill_workspace_bytes() { return kDequantizedOffset; }

size_t prefill_workspace_bytes(const AttentionShape& shape, uint32_t context, int32_t kv_heads) {
    return kDequantizedOffset + kv_heads * dequantized_head_bytes(shape, context);
}

cudaError_t attention_prefill(const Card& card, const PrefillArgs& args, cudaStream_t stream) {
    const uint64_t context = uint64_t{args.start} + args.n_queries;
    if (!valid_shape(args.shape) || !valid_cache(args.cache, args.shape) || args.n_queries == 0 ||
        context_of(args) > uint64_t{args.cache.pages} * kPageTokens || !args.page_table ||
        !valid_positions(args.scheme, args.rotary, args.shape, context) || !aligned_16(args.q) || !aligned_16(args.out) ||
        !aligned_16(args.workspace) || args.workspace_bytes < prefill_workspace_bytes())
        return cudaErrorInvalidValue;

    const LineBits& lines = args.lists.lines;
    const uint64_t listed = uint64_t{args.lists.n_blocks} * args.lists.most_pages * static_cast<uint32_t>(args.shape.n_heads);
    if (args.lists.blocks && (!args.lists.pages || args.scheme.moves() || listed >> 32 != 0)) return cudaErrorInvalidValue;
    if (lines.columns && (!args.lists.blocks || !lines.diagonals || lines.words < line_words(static_cast<uint32_t>(context))))
        return cudaErrorInvalidValue;

    const bool vectors = args.q_stride % 8 == 0 && args.out_stride % 8 == 0;
    const bool fast = vectors && card.compute_capability >= 80 && fast_shape(args);
    const bool sm80 = fast && (args.cache.type != CacheType::Q4 || has_room_to_dequantize(args));
    const bool sm90 = fast && prefill_sm90_takes(card, args);
    switch (args.kernel) {
        case PrefillKernel::Auto:
            if (sm90) return launch_prefill_sm90(card, args, stream);
            if (sm80) return launch_prefill_sm80(card, args, stream);
            [[fallthrough]];
        case PrefillKernel::Simple: return args.lists.blocks ? cudaErrorNotSupported : launch_simple(args, nullptr, stream);
        case PrefillKernel::Sm80: return sm80 ? launch_prefill_sm80(card, args, stream) : cudaErrorNotSupported;
        case PrefillKernel::Sm90: return sm90 ? launch_prefill_sm90(card, args, stream) : cudaErrorNotSupported;
    }
    return cudaErrorInvalidValue;
}

uint32_t decode_group_rows(const Card& card, const AttentionShape& shape, CacheType cache) {
    const uint32_t heads = shape.n_heads / shape.n_kv_heads;
    if (!fast_shape(shape) || heads > 8) return 0;
    const bool staged = cache != CacheType::Q4 && card.shared_bytes >= kStagedGroupBytes;
    const uint32_t columns = decode_columns(shape.head_dim) * (staged ? 4 : 1);
    return std::min(columns / heads, kMostGroupRows);
}

cudaError_t attention_decode(const Card& card, const DecodeArgs& args, cudaStream_t stream) {
    if (!valid_shape(args.shape) || !valid_cache(args.cache, args.shape) || !valid_positions(args.scheme, args.rotary, args.shape, 1) ||
        !aligned_16(args.q) || !aligned_16(args.out) || !args.rows || !args.page_tables || !args.workspace || args.n_rows == 0 ||
        args.n_rows > args.workspace_rows || args.workspace_rows > kMaxDecodeRows || args.n_groups > args.n_rows / 2 ||
        (args.n_groups != 0 && (!args.groups || args.scheme.intra_only || variant_of(args.traits, args.scheme) != Variant::Plain)))
        return cudaErrorInvalidValue;
    // A range for each of LM-Infinite's far keys is more than the fast kernel has room for.
    const bool vectors = args.q_stride % 8 == 0 && args.out_stride % 8 == 0 && args.scheme.border != Border::LmInfinite;
    if (vectors && card.compute_capability >= 80 && fast_shape(args.shape, args.traits, args.scheme)) {
        const cudaError_t error = launch_decode(card, args, stream);
        if (error != cudaSuccess || !holds_codes(args.cache.type) || decode_turns_back(args.shape.head_dim)) return error;
        return launch_turn_back({args.shape, args.out, args.out_stride, args.n_rows, args.dtype, args.rows}, stream);
    }

    PrefillArgs simple{};
    simple.shape = args.shape;
    simple.scheme = args.scheme;
    simple.cache = args.cache;
    simple.rotary = args.rotary;
    simple.page_table = args.page_tables;
    simple.q = args.q;
    simple.out = args.out;
    simple.q_stride = args.q_stride;
    simple.out_stride = args.out_stride;
    simple.dtype = args.dtype;
    simple.traits = args.traits;
    simple.n_queries = args.n_rows;
    return launch_simple(simple, args.rows, stream);
}

cudaError_t settle_keys(const AttentionShape& shape, const LayerCache& cache, const FilledPages& pages, cudaStream_t stream) {
    if (!valid_shape(shape) || !valid_cache(cache, shape) || cache.type != CacheType::Q4 || pages.count > FilledPages::kMost)
        return cudaErrorInvalidValue;
    return pages.count == 0 ? cudaSuccess : launch_settle(shape, cache, pages, stream);
}

cudaError_t store_keys_values(const Card& card, const StoreArgs& args, cudaStream_t stream) {
    if (!valid_shape(args.shape) || !valid_cache(args.cache, args.shape) || args.n_rows == 0 ||
        !valid_positions(args.scheme, args.rotary, args.shape, 1) || !args.k || !args.v || !args.indices || !args.places)
        return cudaErrorInvalidValue;
    return launch_store(card, args, stream);
}

}  // namespace dca::cuda
