#include "cuda/step/work_space.h"

#include <algorithm>

#include "core/ranks/exchange.h"
#include "core/text.h"
#include "cuda/kv_cache.h"
#include "cuda/linear/gemm.h"
#include "cuda/linear/small_batch/small_batch.h"
#include "cuda/step/step_input.h"

namespace dca::cuda {

namespace {

// Longer blocks read the weights less often; from here on it no longer shows. A quantised matrix is
// dequantized to 16 bits once a block, which longer ones pay for.
constexpr uint32_t kDenseBlock = 4096;
constexpr uint32_t kQuantisedBlock = 8192;
constexpr uint32_t kShortestBlock = 256;

constexpr uint64_t kLogitsBytes = uint64_t{128} << 20;  // of several rows at once
constexpr uint64_t kMostDequantized = uint64_t{512} << 20;
constexpr uint64_t kMostDequantizedCache = uint64_t{512} << 20;
constexpr uint64_t kDequantizedPiece = uint64_t{128} << 20;  // of a key head that takes more than that
constexpr uint64_t kReserve = uint64_t{256} << 20;           // for CUDA's own needs

constexpr uint32_t kMostSlices = 128;  // of a step

/// Values between a feed-forward's first matrices and its last, in a step of `block` rows and in one of a single row.
struct HiddenValues {
    size_t of_block, of_row;
};
HiddenValues hidden_values(const Hparams& h, uint32_t block) {
    if (h.n_experts == 0) return {size_t{h.n_ff} * block, h.n_ff};
    return {std::max(size_t{h.n_ff_expert} * ExpertMemory::product_rows(block), size_t{h.n_ff_shared} * block),
            std::max(size_t{h.n_ff_expert} * h.n_experts_used, size_t{h.n_ff_shared})};
}

}  // namespace

bool needs_branch(const Hparams& h) { return h.norms != Norms::Before || h.residual_scale != 1.0f; }

/// The table of cos and sin in the device memory at `to`, which has room for it.
void upload(RopeTable rope, const float2* to, cudaStream_t stream) {
    rope.fill();
    std::vector<float2> table(rope.cos.size());
    for (size_t i = 0; i < table.size(); ++i) table[i] = {rope.cos[i], rope.sin[i]};
    check(cudaMemcpyAsync(const_cast<float2*>(to), table.data(), table.size() * sizeof(float2), cudaMemcpyHostToDevice, stream),
          "preparing the work space");
    check(cudaStreamSynchronize(stream), "preparing the work space");  // the executor's stream does not wait for this one
}

struct WorkSpace::Plan {
    const Hparams& h;
    const DeviceWeights& weights;
    const Card& card;
    const AttentionShape& shape;
    const Scheme& scheme;
    const Scheme& window_scheme;
    uint32_t n_frequencies;  // of the rotation tables
    const PrefillSpec& prefill;
    const RankLink& link;
    uint32_t most_rows;  // of a step, were there memory for them: the same for all ranks

    RotaryTable table(Arena& scratch, const Scheme& of, uint32_t tokens) const {
        const uint32_t positions = of.table_rows(tokens);
        return {scratch.take<float2>(size_t{positions} * n_frequencies), positions};
    }

    /// Prefill dequantizes a cache of codes for the fastest kernel, some heads at a time, or a piece of one.
    size_t prefill_bytes(uint32_t block, uint32_t tokens, CacheType type) const {
        if (!holds_codes(type) || block == 1) return prefill_workspace_bytes();
        const uint64_t a_head = prefill_workspace_bytes(shape, tokens, 1);
        if (a_head > kMostDequantizedCache && reads_everything()) {
            const uint64_t pieces = prefill_pieces_bytes(card, shape, scheme, tokens, block, kDequantizedPiece);
            if (pieces != 0 && pieces < a_head) return pieces;
        }
        const auto heads = std::clamp<uint64_t>(kMostDequantizedCache / a_head, 1, h.n_kv_heads);
        return prefill_workspace_bytes(shape, tokens, static_cast<int32_t>(heads));
    }
    /// Whether the queries of every layer attend to all keys, and to nothing else.
    bool reads_everything() const {
        const auto sinks = [](const DeviceLayer& layer) { return layer.sinks != nullptr; };
        return h.window == 0 && h.attention_cap == 0.0f && !prefill.chooses() && std::ranges::none_of(weights.layers(), sinks);
    }
    /// Room for a layer's largest matrix in 16 bits, and at least for kDequantizedRows rows of any.
    uint64_t dequantized_bytes() const {
        uint64_t values = 0, cols = 0;
        for (const DeviceLayer& layer : weights.layers()) {
            for (const FusedMatrices* fused :
                 {&layer.qkv, &layer.output, &layer.gate_up, &layer.down, &layer.shared_gate_up, &layer.shared_down}) {
                for (const Matrix& part : fused->parts) {
                    values = std::max(values, uint64_t{part.rows} * part.cols);
                    cols = std::max<uint64_t>(cols, part.cols);
                }
            }
        }
        return std::max(std::min(2 * values, kMostDequantized), 2 * cols * WorkSpace::kDequantizedRows);
    }
};

void WorkSpace::place(Arena& scratch, const Plan& plan, uint32_t tokens, CacheType type) {
    const Hparams& h = plan.h;
    rotary = plan.table(scratch, plan.scheme, tokens);
    if (h.window != 0) window_rotary = plan.table(scratch, plan.window_scheme, tokens);
    const auto activation = [&](size_t width) { return scratch.take<std::byte>(2 * width * block); };
    x = scratch.take<float>(size_t{h.n_embd} * block);
    branch = scratch.take<float>(needs_branch(h) ? size_t{h.n_embd} * block : 0);
    normed = activation(h.n_embd);
    qkv = activation(size_t{h.q_width()} + 2 * h.kv_width());
    attended = activation(h.q_width());
    const HiddenValues hidden = hidden_values(h, block);
    gate_up = scratch.take<std::byte>(2 * 2 * hidden.of_block);
    gated = scratch.take<std::byte>(2 * hidden.of_block);
    gate_up_row = scratch.take<float>(2 * hidden.of_row);
    gated_row = scratch.take<float>(hidden.of_row);
    if (h.n_experts > 0) experts.place(scratch, h, block);
    if (plan.prefill.sparse) sparse.place(scratch, h, plan.card, plan.scheme, block, slices, tokens);
    if (const StatedBudgets* stated = plan.prefill.stated)
        lines.place(scratch, h, plan.shape, plan.scheme, std::min(stated->last_queries, block), block, tokens);
    const uint64_t n_vocab = plan.link.exchange == nullptr ? h.n_vocab : plan.link.exchange->n_vocab();
    // Ranks go through rows of logits together, also where one of them has memory for shorter blocks only.
    vocab_rows = static_cast<uint32_t>(
        std::clamp<uint64_t>(kLogitsBytes / (4 * n_vocab), 1, plan.link.exchange == nullptr ? block : plan.most_rows));
    logits = scratch.take<float>(size_t{vocab_rows} * h.n_vocab);
    dequantized_bytes = plan.weights.quantised() && block > 1 ? plan.dequantized_bytes() : 0;
    dequantized = scratch.take<std::byte>(dequantized_bytes);
    const size_t few_rows = small_batch_workspace_bytes(plan.card, std::min(block, kSmallBatchRows));
    product_workspace = scratch.take<std::byte>(std::max(Gemm::kWorkspaceBytes, block > 1 ? few_rows : 0));
    prefill_bytes = plan.prefill_bytes(block, tokens, type);
    prefill_workspace = scratch.take<std::byte>(prefill_bytes);
    decode_workspace = scratch.take<std::byte>(decode_workspace_bytes(plan.card, plan.shape, decode_rows));
    if (plan.link.exchange == nullptr) return;
    for (std::byte*& partial : ranks.partial) partial = scratch.take<std::byte>(sizeof(float) * h.n_embd * block);
    rank_sizes = {plan.link.exchange->ranks(), block, h.n_embd};
    std::byte* inboxes = scratch.take<std::byte>(RankMemory::inbox_bytes_of(rank_sizes));
    ranks.place(inboxes, scratch.take<std::byte>(RankMemory::signal_bytes(rank_sizes)), rank_sizes);
    whole_logits = scratch.take<float>(plan.link.exchange->first_row(1, vocab_rows) * n_vocab);  // no rank has more rows than the first
}

void WorkSpace::place_host(Arena& host, const Plan& plan) {
    targets = host.take<int32_t>(block);
    scores = host.take<float2>(block);
    host_logits_rows = std::min(block, kMostGuessedRows);
    host_logits = host.take<float>(size_t{host_logits_rows} * plan.h.n_vocab);
    if (plan.h.n_experts > 0) experts.place_host(host, plan.h);
}

WorkSpace::WorkSpace(const Hparams& h, const DeviceWeights& weights, const Device& device, const AttentionShape& shape,
                     const EngineSpec& spec) {
    const CacheType type = supported_cache(spec.cache_type);
    block = std::min(spec.max_rows != 0 ? spec.max_rows : weights.quantised() ? kQuantisedBlock : kDenseBlock, spec.tokens);
    const Plan plan{h,         weights, device.card, shape, spec.scheme, spec.window_scheme, spec.rope.n_frequencies, spec.prefill,
                    spec.link, block};
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    const uint64_t available = free - std::min<uint64_t>(free, kReserve);

    const auto measure = [&](uint32_t tokens, CacheType of_type) {
        Arena scratch;
        slices = std::min({kMostSlices, block, spec.max_slices != 0 ? spec.max_slices : kMostSlices});
        decode_rows = std::min(block, std::max(slices, kMostGuessedRows));
        place(scratch, plan, tokens, of_type);
        return scratch.bytes();
    };
    const auto cache_bytes = [&](uint32_t tokens, CacheType of_type) {
        return CudaKvCache::bytes_for(h, tokens, of_type, plan.prefill.sparse);
    };
    const auto fits = [&](uint32_t tokens, CacheType of_type) {
        const uint64_t scratch = measure(tokens, of_type);  // sets `slices`
        return cache_bytes(tokens, of_type) + cache_bytes(kPageTokens, of_type) +
                   CudaKvCache::fine_bytes_for(h, tokens, of_type, block, slices) + scratch <=
               available;
    };
    while (!fits(spec.tokens, type) && spec.max_rows == 0 && block > kShortestBlock) block /= 2;
    scratch_bytes = measure(spec.tokens, type);
    if (!fits(spec.tokens, type)) {
        const auto most_tokens = [&](CacheType of_type) {
            uint32_t some = 0, too_many = pages_for(spec.tokens);  // pages
            if (fits(spec.tokens, of_type)) return spec.tokens;
            while (too_many - some > 1) {
                const uint32_t middle = some + (too_many - some) / 2;
                (fits(middle * kPageTokens, of_type) ? some : too_many) = middle;
            }
            return some * kPageTokens;
        };
        const uint32_t most = most_tokens(type);
        throw RoomError(most, message_from("a ", spec.room, " of ", spec.tokens, " tokens takes ",
                                           gigabytes(cache_bytes(spec.tokens, type)), " of cache and ", gigabytes(scratch_bytes),
                                           " of work space, ", device.description, " has ", gigabytes(available), " free: room for ", most,
                                           " tokens", smaller_caches(spec, h.head_dim, [&](dca_cache_type smaller) {
                                               return most_tokens(static_cast<CacheType>(smaller));
                                           })));
    }

    device_ = allocate_device(scratch_bytes, "allocating the work space");
    Arena scratch(device_.get());
    place(scratch, plan, spec.tokens, type);
    Arena host_size;
    place_host(host_size, plan);
    host_ = allocate_pinned(host_size.bytes(), "allocating the work space");
    Arena host(host_.get());
    place_host(host, plan);

    const Stream stream = make_stream();
    check(cudaMemsetAsync(decode_workspace, 0, decode_workspace_bytes(device.card, shape, decode_rows), stream.get()),
          "preparing the work space");
    if (plan.prefill.chooses()) {
        unsigned long long* unread = plan.prefill.sparse ? sparse.lists.unread : lines.lists.unread;
        check(cudaMemsetAsync(unread, 0, size_t{h.n_layers} * h.n_heads * sizeof(*unread), stream.get()), "preparing the work space");
    }
    if (spec.link.exchange != nullptr) {
        check(ranks.clear(rank_sizes, stream.get()), "preparing the work space");
        check(cudaStreamSynchronize(stream.get()), "preparing the work space");
    }
    upload(spec.rope, rotary.cos_sin, stream.get());
    if (h.window != 0) upload(spec.window_rope, window_rotary.cos_sin, stream.get());
}

}  // namespace dca::cuda
