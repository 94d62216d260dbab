#include "cuda/step/step.h"

#include <algorithm>
#include <vector>

#include "cuda/attention/variants.h"
#include "cuda/step/compact_rows.h"
#include "cuda/step/sparse_prefill.h"
#include "cuda/step/stated_prefill.h"
#include "cuda/experts/router.h"
#include "cuda/linear/elementwise.h"

namespace dca::cuda {

namespace {

AttentionShape attention_shape(const Hparams& h) {
    return {
        .n_heads = static_cast<int32_t>(h.n_heads),
        .n_kv_heads = static_cast<int32_t>(h.n_kv_heads),
        .head_dim = static_cast<int32_t>(h.head_dim),
        .rotary_dim = static_cast<int32_t>(h.rotary_dim),
        .rope_interleaved = h.rope_layout == RopeLayout::Interleaved,
        .scale = h.attention_scale,
    };
}

std::unique_ptr<PrefillChoice> make_choice(const Hparams& h, const Device& device, const EngineSpec& spec, const WorkSpace& memory) {
    if (spec.prefill.stated != nullptr) return std::make_unique<StatedPrefill>(h, device, spec, memory.lines);
    if (spec.prefill.sparse) return std::make_unique<SparsePrefill>(h, device, spec, memory.sparse);
    return nullptr;
}

}  // namespace

StepState::StepState(const Hparams& hparams, const DeviceWeights& device_weights, const Device& card, const EngineSpec& spec)
    : h(hparams),
      weights(device_weights),
      device(card),
      shape(attention_shape(hparams)),
      scheme(spec.scheme),
      window_scheme(spec.window_scheme),
      memory(hparams, weights, device, shape, spec),
      choice(make_choice(hparams, device, spec, memory)),
      input(memory.block, memory.decode_rows, pages_for(spec.tokens), scheme,
            decode_group_rows(device.card, shape, supported_cache(spec.cache_type))),
      stream(make_stream()),
      rank(spec.link.rank),
      exchange(static_cast<CudaExchange*>(spec.link.exchange)) {
    if (!shared()) return;
    post = make_stream();
    ready = make_event();
    sent = make_event();
    logits_sent = make_event();
    exchange->join(rank, {memory.ranks, memory.rank_sizes, {stream.get(), post.get()}, memory.whole_logits, logits_sent.get()});
}

void StepState::sum_partials(Partial partial, const float* post_norm, bool fresh) {
    const uint64_t n = uint64_t{rows} * h.n_embd;
    const bool direct = adds_directly(post_norm);
    if (!direct && fresh) check(cudaMemsetAsync(memory.branch, 0, sizeof(float) * n, stream.get()), "summing over the cards");
    exchange->sum(device.card, rank, {.x = direct ? x() : memory.branch, .partial = partial, .n = n, .waits = false}, recording(),
                  stream.get());
}

bool StepState::recording() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream.get(), &status), "running the model");
    return status != cudaStreamCaptureStatusNone;
}

void StepState::send_partials(Partial partial, uint32_t first, uint32_t count) {
    const bool last = first + count == rows;
    if (last) pending = partial;
    if (!exchange->mails(rows)) return;
    check(cudaEventRecord(ready.get(), stream.get()), "summing over the cards");
    check(cudaStreamWaitEvent(post.get(), ready.get()), "summing over the cards");
    exchange->mail(rank, partial, weights.dtype(), uint64_t{first} * h.n_embd, uint64_t{count} * h.n_embd, post.get());
    if (last) check(cudaEventRecord(sent.get(), post.get()), "summing over the cards");
}

void StepState::add_and_norm(const NormArgs& norm) {
    // NCCL's sums are there then, and a step that is being recorded has come back to its stream.
    if (exchange->mails(rows)) check(cudaStreamWaitEvent(stream.get(), sent.get()), "summing over the cards");
    exchange->sum_and_norm(device.card, rank, {.x = x(), .partial = *pending, .norm = norm, .mailed = false}, recording(), stream.get());
    pending.reset();
}

LayerAttention StepState::attention_of(uint32_t layer) const {
    const LayerKind kind = h.layers[layer];
    LayerAttention attention{
        .shape = shape,
        .scheme = kind.windowed ? window_scheme : scheme,
        .rotary = kind.windowed ? memory.window_rotary : memory.rotary,
        .traits = {.window = kind.windowed ? h.window : 0, .cap = h.attention_cap, .sinks = weights.layers()[layer].sinks}};
    if (!kind.rotated) attention.shape.rotary_dim = 0;
    return attention;
}

void StepState::norm(const DeviceNorm& of, float* factors) {
    const NormArgs args{x(), of.weight, of.bias, h.norm, h.rms_epsilon, rows, h.n_embd, weights.dtype(), memory.normed, factors};
    if (pending) return add_and_norm(args);
    check(cuda::norm(device.card, args, stream.get()), "norming");
}

void StepState::add_branch(const float* post_norm) {
    const AddBranchArgs args{memory.branch, post_norm, h.rms_epsilon, h.residual_scale, rows, h.n_embd, x()};
    check(cuda::add_branch(device.card, args, stream.get()), "adding a block's result");
}

void StepState::end_attention(const DeviceLayer& w) {
    if (shared()) sum_partials(Partial::Attention, w.attention_post_norm, true);
    // Of parallel blocks the other one reads x first.
    if (h.norms != Norms::Parallel && !adds_directly(w.attention_post_norm)) add_branch(w.attention_post_norm);
}

void StepState::end_ffn(const DeviceLayer& w) {
    if (shared()) sum_partials(Partial::FeedForward, w.ffn_post_norm, h.norms != Norms::Parallel);
    if (!adds_directly(w.ffn_post_norm)) add_branch(w.ffn_post_norm);
}

void StepState::finish_logits(uint32_t n_rows) {
    if (h.logit_scale == 1.0f && h.logit_cap == 0.0f) return;
    check(scale_and_cap(device.card, memory.logits, uint64_t{n_rows} * h.n_vocab, h.logit_scale, h.logit_cap, stream.get()),
          "scaling logits");
}

void StepState::keep_wanted_rows() {
    if (input.kept().rows == rows) return;
    group = &input.kept();
    rows = group->rows;
    if (input.kept_in_one_run()) {
        first_row = input.first_kept();
        return;
    }
    check(compact_rows(input.kept_rows(), rows, {memory.x, h.n_embd * sizeof(float), h.n_embd * sizeof(float)},
                       {memory.qkv, size_t{2} * h.q_width(), size_t{2} * qkv_width()}, stream.get()),
          "keeping rows");
}

void StepState::norm_heads(const DeviceLayer& w) {
    if (w.q_norm == nullptr) return;
    const HeadNormArgs args{qkv(),      weights.dtype(), rows,     qkv_width(),      h.n_heads, h.n_kv_heads,
                            h.head_dim, w.q_norm,        w.k_norm, w.head_norm_step, h.norm,    h.rms_epsilon};
    check(h.whole_width_qk_norm ? whole_head_norm(device.card, args, stream.get()) : head_norm(device.card, args, stream.get()),
          "norming heads");
}

void StepState::store_keys_values(uint32_t layer) {
    const std::byte* keys = memory.qkv + size_t{2} * h.q_width();
    const LayerAttention attention = attention_of(layer);
    const StoreArgs args{
        .shape = attention.shape,
        .scheme = attention.scheme,
        .cache = cache->layers()[layer],
        .rotary = attention.rotary,
        .k = keys,
        .v = keys + size_t{2} * h.kv_width(),
        .k_stride = qkv_width(),
        .v_stride = qkv_width(),
        .dtype = weights.dtype(),
        .n_rows = rows,
        .indices = input.indices(),
        .places = input.places(),
    };
    check(cuda::store_keys_values(device.card, args, stream.get()), "storing keys and values");
    stored_one = rows == 1;
    if (choice != nullptr) choice->stored(layer, shape, *cache, stream.get());
}

void StepState::settle_pages() {
    const std::vector<FreshPages::Filled> filled = cache->filled();
    for (size_t first = 0; first < filled.size(); first += FilledPages::kMost) {
        FilledPages pages{};
        pages.count = static_cast<uint32_t>(std::min<size_t>(FilledPages::kMost, filled.size() - first));
        for (uint32_t i = 0; i < pages.count; ++i) pages.page[i] = filled[first + i].page, pages.first[i] = filled[first + i].first;
        for (const LayerCache& layer : cache->layers()) check(settle_keys(shape, layer, pages, stream.get()), "settling keys");
    }
}

void StepState::attend(uint32_t layer) {
    const LayerCache& keys_values = cache->layers()[layer];
    const LayerAttention attention = attention_of(layer);
    if (group->single != 0) {
        const DecodeArgs args{
            .shape = attention.shape,
            .scheme = attention.scheme,
            .cache = keys_values,
            .rotary = attention.rotary,
            .q = qkv(),
            .out = memory.attended,
            .q_stride = qkv_width(),
            .out_stride = h.q_width(),
            .dtype = weights.dtype(),
            .traits = attention.traits,
            .n_rows = group->single,
            .rows = group->decode,
            .page_tables = input.page_tables(),
            .groups = group->groups,
            .n_groups = variant_of(attention.traits, attention.scheme) == Variant::Plain ? group->n_groups : 0,
            .workspace = memory.decode_workspace,
            .workspace_rows = memory.decode_rows,
            .after_store = stored_one,
        };
        check(attention_decode(device.card, args, stream.get()), "attending");
    }
    for (const SliceRows& slice : group->longer) {
        const PrefillArgs args{
            .shape = attention.shape,
            .scheme = attention.scheme,
            .cache = keys_values,
            .rotary = attention.rotary,
            .page_table = slice.page_table,
            .q = qkv() + size_t{slice.first_row} * qkv_width() * 2,
            .out = memory.attended + size_t{slice.first_row} * h.q_width() * 2,
            .q_stride = qkv_width(),
            .out_stride = h.q_width(),
            .dtype = weights.dtype(),
            .traits = attention.traits,
            .start = slice.start,
            .n_queries = slice.rows,
            .workspace = memory.prefill_workspace,
            .workspace_bytes = memory.prefill_bytes,
            .kernel = PrefillKernel::Auto,
            .lists = {},
            .fresh_page = slice.fresh_page,
        };
        const auto attend_part = [&](const PrefillArgs& part) { check(attention_prefill(device.card, part, stream.get()), "attending"); };
        if (choice == nullptr)
            attend_part(args);
        else
            choice->attend(layer, args, slice.sparse_end, *cache, stream.get(), attend_part);
    }
}

void StepState::choose_experts(const DeviceLayer& w, const float* factors) {
    const ExpertMemory& m = memory.experts;
    const ChooseArgs args{
        .logits = m.logits,
        .rows = rows,
        .stride = router_rows(h.n_experts),
        .factors = factors,
        .bias = w.router_bias,
        .n_experts = h.n_experts,
        .n_used = h.n_experts_used,
        .normalised = h.expert_weights_norm,
        .shared_gated = w.shared_gated,
        .scale = h.expert_weights_scale,
        .experts = m.chosen,
        .weights = m.weights,
    };
    check(cuda::choose_experts(device.card, args, stream.get()), "choosing experts");
}

}  // namespace dca::cuda
