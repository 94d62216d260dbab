#include "cuda/session_memory.h"

#include <algorithm>

#include "core/text.h"
#include "cuda/linear/gemm.h"

namespace dca::cuda {

namespace {

// Longer blocks read the weights less often; from here on it no longer shows. A quantised matrix is
// dequantized to 16 bits once a block, which longer ones pay for.
constexpr uint32_t dense_block = 4096;
constexpr uint32_t quantised_block = 8192;
constexpr uint32_t shortest_block = 256;

constexpr uint64_t logits_bytes = uint64_t{128} << 20;  // of several rows at once
constexpr uint64_t most_dequantized = uint64_t{512} << 20;
constexpr uint64_t most_dequantized_cache = uint64_t{512} << 20;
constexpr uint64_t reserve = uint64_t{256} << 20;  // for CUDA's own needs

CacheType supported(dca_cache_type type) {
    if (type == DCA_CACHE_F32) fail(DCA_ERROR_UNSUPPORTED, "cache_type is f32, must be f16, bf16 or q8 on a CUDA device");
    return static_cast<CacheType>(type);
}

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

struct SessionMemory::Plan {
    const Hparams& h;
    const DeviceWeights& weights;
    const Card& card;
    const AttentionShape& shape;
    uint32_t context;
    CacheType type;
    const RopeTable& rope;
    bool table_grows;  // with the context: plain attention uses every position

    uint64_t cache_bytes_per_token(CacheType type) const {
        const uint64_t values = uint64_t{2} * h.n_layers * h.kv_width();
        return type == CacheType::Q8 ? values + uint64_t{4} * h.n_layers * h.n_kv_heads : 2 * values;
    }
    /// Contexts that fit in `bytes`, not counting the rest of the session.
    uint64_t context_in(uint64_t bytes, CacheType type) const {
        return bytes / (cache_bytes_per_token(type) + (table_grows ? rope.n_frequencies * sizeof(float2) : 0));
    }
    /// Prefill dequantizes a Q8 cache for the fastest kernel, some heads at a time.
    size_t prefill_bytes(uint32_t block) const {
        if (type != CacheType::Q8 || block == 1) return prefill_workspace_bytes();
        const uint64_t a_head = prefill_workspace_bytes(shape, context, 1);
        const auto heads = std::clamp<uint64_t>(most_dequantized_cache / a_head, 1, h.n_kv_heads);
        return prefill_workspace_bytes(shape, context, static_cast<int32_t>(heads));
    }
    /// Room for a layer's largest matrix in 16 bits, and at least for dequantized_rows rows of any.
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
        return std::max(std::min(2 * values, most_dequantized), 2 * cols * SessionMemory::dequantized_rows);
    }
};

void SessionMemory::place(Arena& cache_arena, Arena& scratch, const Plan& plan) {
    const Hparams& h = plan.h;
    cache.clear();
    const size_t rows = size_t{h.n_kv_heads} * plan.context;
    const size_t element_bytes = plan.type == CacheType::Q8 ? 1 : 2;
    const size_t scales = plan.type == CacheType::Q8 ? rows : 0;
    for (uint32_t layer = 0; layer < h.n_layers; ++layer) {
        LayerCache view{};
        view.keys = cache_arena.take<std::byte>(rows * h.head_dim * element_bytes);
        view.values = cache_arena.take<std::byte>(rows * h.head_dim * element_bytes);
        view.key_scales = cache_arena.take<uint16_t>(scales);
        view.value_scales = cache_arena.take<uint16_t>(scales);
        view.capacity = plan.context;
        view.type = plan.type;
        cache.push_back(view);
    }
    rotary = {scratch.take<float2>(size_t{plan.rope.positions} * plan.rope.n_frequencies), plan.rope.positions};
    const auto activation = [&](size_t width) { return scratch.take<std::byte>(2 * width * block); };
    x = scratch.take<float>(size_t{h.n_embd} * block);
    normed = activation(h.n_embd);
    qkv = activation(size_t{h.q_width()} + 2 * h.kv_width());
    attended = activation(h.q_width());
    const HiddenValues hidden = hidden_values(h, block);
    gate_up = scratch.take<std::byte>(2 * 2 * hidden.of_block);
    gated = scratch.take<std::byte>(2 * hidden.of_block);
    gate_up_row = scratch.take<float>(2 * hidden.of_row);
    gated_row = scratch.take<float>(hidden.of_row);
    if (h.n_experts > 0) experts.place(scratch, h, block);
    vocab_rows = static_cast<uint32_t>(std::clamp<uint64_t>(logits_bytes / (4 * uint64_t{h.n_vocab}), 1, block));
    logits = scratch.take<float>(size_t{vocab_rows} * h.n_vocab);
    dequantized_bytes = plan.weights.quantised() && block > 1 ? plan.dequantized_bytes() : 0;
    dequantized = scratch.take<std::byte>(dequantized_bytes);
    gemm_workspace = scratch.take<std::byte>(Gemm::workspace_bytes);
    prefill_bytes = plan.prefill_bytes(block);
    prefill_workspace = scratch.take<std::byte>(prefill_bytes);
    decode_workspace = scratch.take<std::byte>(decode_workspace_bytes(plan.card, plan.shape));
    length = scratch.take<uint32_t>(1);
}

void SessionMemory::place_host(Arena& host, const Plan& plan) {
    tokens = host.take<int32_t>(block);
    targets = host.take<int32_t>(block);
    nll = host.take<float>(block);
    logits_row = host.take<float>(plan.h.n_vocab);
    start = host.take<uint32_t>(1);
    if (plan.h.n_experts > 0) experts.place_host(host, plan.h);
}

SessionMemory::SessionMemory(const Hparams& h, const DeviceWeights& weights, const Device& device, const AttentionShape& shape,
                             const EngineSpec& spec) {
    const Plan plan{h, weights, device.card, shape, spec.tokens, supported(spec.cache_type), spec.rope, spec.scheme.plain()};
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    const uint64_t available = free - std::min<uint64_t>(free, reserve);

    block = std::min(spec.max_rows != 0 ? spec.max_rows : weights.quantised() ? quantised_block : dense_block, spec.tokens);
    const auto measure = [&] {
        Arena cache_arena, scratch;
        place(cache_arena, scratch, plan);
        cache_bytes = cache_arena.bytes();
        scratch_bytes = scratch.bytes();
    };
    measure();
    while (cache_bytes + scratch_bytes > available && spec.max_rows == 0 && block > shortest_block) {
        block /= 2;
        measure();
    }
    if (cache_bytes + scratch_bytes > available) {
        const uint64_t growing = plan.table_grows ? uint64_t{plan.rope.positions} * plan.rope.n_frequencies * sizeof(float2) : 0;
        const uint64_t fixed = scratch_bytes - growing;
        const uint64_t room = available - std::min(available, fixed);
        fail(DCA_ERROR_MEMORY, "a ", spec.room, " of ", spec.tokens, " tokens takes ", gigabytes(cache_bytes), " of cache and ",
             gigabytes(scratch_bytes), " of work space, ", device.description, " has ", gigabytes(available), " free: room for ",
             plan.context_in(room, plan.type), " tokens",
             plan.type == CacheType::Q8 ? "" : ", or " + std::to_string(plan.context_in(room, CacheType::Q8)) + " with cache_type q8");
    }

    device_ = allocate_device(cache_bytes + scratch_bytes, "allocating the session");
    Arena cache_arena(device_.get()), scratch(device_.get() + cache_bytes);
    place(cache_arena, scratch, plan);
    Arena host_size;
    place_host(host_size, plan);
    host_ = allocate_pinned(host_size.bytes(), "allocating the session");
    Arena host(host_.get());
    place_host(host, plan);

    check(cudaMemset(decode_workspace, 0, decode_workspace_bytes(device.card, shape)), "preparing the session");
    RopeTable rope = plan.rope;
    rope.fill();
    std::vector<float2> table(rope.cos.size());
    for (size_t i = 0; i < table.size(); ++i) table[i] = {rope.cos[i], rope.sin[i]};
    check(cudaMemcpy(const_cast<float2*>(rotary.cos_sin), table.data(), table.size() * sizeof(float2), cudaMemcpyHostToDevice),
          "preparing the session");
    check(cudaStreamSynchronize(nullptr), "preparing the session");  // the session's stream does not wait for this one
}

}  // namespace dca::cuda
