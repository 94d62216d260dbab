#include "core/hparams.h"

#include <array>
#include <cmath>

#include "core/error.h"
#include "core/positions/scheme.h"

namespace dca {

namespace {

/// What an architecture's name alone tells; everything else is in keys or shown by the tensors.
struct Architecture {
    std::string_view name;
    RopeLayout rope_layout;
    bool expert_weights_norm;  // of a mixture whose file does not say
};

constexpr std::array kArchitectures{
    Architecture{"llama", RopeLayout::Interleaved, true},  // Mistral and Mixtral too
    Architecture{"qwen2", RopeLayout::Halves, false},     Architecture{"qwen3", RopeLayout::Halves, false},
    Architecture{"phi3", RopeLayout::Halves, false},      Architecture{"qwen2moe", RopeLayout::Halves, false},
    Architecture{"qwen3moe", RopeLayout::Halves, true},
};

const Architecture& find_architecture(const GgufFile& file) {
    const auto name = file.get_string("general.architecture");
    if (!name) fail(DCA_ERROR_FORMAT, file.path(), ": general.architecture is missing");
    std::string known;
    for (const Architecture& architecture : kArchitectures) {
        if (architecture.name == *name) return architecture;
        known.append(known.empty() ? "" : ", ").append(architecture.name);
    }
    fail(DCA_ERROR_UNSUPPORTED, file.path(), ": general.architecture is ", *name, ", must be one of ", known);
}

/// Reads keys under the architecture's prefix.
class Keys {
public:
    Keys(const GgufFile& file, std::string_view prefix) : file_(file), prefix_(prefix) {}

    std::string name(std::string_view key) const { return prefix_ + "." + std::string(key); }

    std::optional<uint32_t> u32(std::string_view key) const { return file_.get_u32(name(key)); }
    std::optional<float> f32(std::string_view key) const { return file_.get_f32(name(key)); }

    uint32_t required(std::string_view key, uint32_t least, uint32_t most) const {
        const auto value = u32(key);
        if (!value) fail(DCA_ERROR_FORMAT, file_.path(), ": ", name(key), " is missing");
        return checked(key, *value, least, most);
    }

    uint32_t checked(std::string_view key, uint32_t value, uint32_t least, uint32_t most) const {
        if (value < least || value > most) {
            fail(DCA_ERROR_FORMAT, file_.path(), ": ", name(key), " is ", value, ", must be ", least, " to ", most);
        }
        return value;
    }

    float positive(std::string_view key, float otherwise) const {
        const float value = f32(key).value_or(otherwise);
        if (!std::isfinite(value) || value <= 0.0f) {
            fail(DCA_ERROR_FORMAT, file_.path(), ": ", name(key), " is ", value, ", must be positive and finite");
        }
        return value;
    }

    /// A count that must be the same in every layer, given once or once a layer.
    std::optional<uint32_t> uniform(std::string_view key, uint32_t n_layers) const {
        const auto list = file_.get_u32_list(name(key));
        if (!list) return std::nullopt;
        if (list->empty() || (list->size() != 1 && list->size() != n_layers)) {
            fail(DCA_ERROR_FORMAT, file_.path(), ": ", name(key), " has ", list->size(), " entries, must have 1 or ", n_layers);
        }
        for (const uint32_t value : *list) {
            if (value != list->front()) {
                fail(DCA_ERROR_UNSUPPORTED, file_.path(), ": ", name(key), " differs from layer to layer, which this version does not run");
            }
        }
        return list->front();
    }

private:
    const GgufFile& file_;
    std::string prefix_;
};

void read_rope(const GgufFile& file, const Keys& keys, Hparams& h) {
    h.rotary_dim = keys.checked("rope.dimension_count", keys.u32("rope.dimension_count").value_or(h.head_dim), 2, h.head_dim);
    if (h.rotary_dim % 2 != 0)
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name("rope.dimension_count"), " is ", h.rotary_dim, ", must be even");
    h.rope_base = keys.positive("rope.freq_base", 10000.0f);
    const auto kind = file.get_string(keys.name("rope.scaling.type")).value_or("none");
    h.rope_original_context = keys.u32("rope.scaling.original_context_length").value_or(h.context_length);
    if (kind == "none") {
        h.rope_scaling = RopeScaling::None;
    } else if (kind == "linear") {
        h.rope_scaling = RopeScaling::Linear;
    } else if (kind == "yarn") {
        h.rope_scaling = RopeScaling::Yarn;
    } else if (kind == "longrope") {
        h.rope_scaling = RopeScaling::LongRope;
    } else {
        fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys.name("rope.scaling.type"), " is ", kind,
             ", must be none, linear, yarn or longrope");
    }
    // Phi-3 files state long and short factors without naming the kind.
    if (file.find_tensor("rope_factors_long.weight") != nullptr) h.rope_scaling = RopeScaling::LongRope;
    h.rope_factor = keys.positive("rope.scaling.factor", 1.0f);
    h.rope_attention_factor = keys.positive("rope.scaling.attn_factor", 1.0f);
    h.yarn_beta_fast = keys.positive("rope.scaling.yarn_beta_fast", 32.0f);
    h.yarn_beta_slow = keys.positive("rope.scaling.yarn_beta_slow", 1.0f);
}

void read_experts(const GgufFile& file, const Keys& keys, const Architecture& architecture, Hparams& h) {
    h.n_experts = keys.checked("expert_count", keys.u32("expert_count").value_or(0), 0, 4096);
    if (h.n_experts == 0) return;
    h.n_experts_used = keys.required("expert_used_count", 1, h.n_experts);
    h.n_ff_expert = keys.checked("expert_feed_forward_length", keys.u32("expert_feed_forward_length").value_or(h.n_ff), 1, 1u << 24);
    h.n_ff_shared =
        keys.checked("expert_shared_feed_forward_length", keys.u32("expert_shared_feed_forward_length").value_or(0), 0, 1u << 24);
    h.n_ff = 0;  // a mixture has no dense feed-forward, and no tensor that would bear out its width
    h.expert_weights_norm = file.get_bool(keys.name("expert_weights_norm")).value_or(architecture.expert_weights_norm);
    h.expert_weights_scale = keys.positive("expert_weights_scale", 1.0f);
    if (keys.u32("expert_gating_func").value_or(1) != 1) {
        fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys.name("expert_gating_func"),
             " is not 1 (softmax), the only one this version runs");
    }
}

void read_scheme(const GgufFile& file, const Keys& keys, Hparams& h) {
    const auto chunk_size = keys.u32("attention.dca.chunk_size");
    if (!chunk_size) return;
    h.scheme.chunk_size = *chunk_size;
    h.scheme.local_window = keys.required("attention.dca.local_window", 0, UINT32_MAX);
    h.scheme.pretraining_length = keys.required("attention.dca.pretraining_length", 0, UINT32_MAX);
    h.scheme.logit_scale = keys.f32("attention.dca.logit_scale").value_or(0.0f);
    h.scheme.logit_scale_length = keys.u32("attention.dca.logit_scale_length").value_or(0);
    validate_scheme(h.scheme, DCA_ERROR_FORMAT, (file.path() + ": " + keys.name("attention.dca.")).c_str());
}

}  // namespace

Hparams read_hparams(const GgufFile& file) {
    const Architecture& architecture = find_architecture(file);
    const Keys keys(file, architecture.name);
    Hparams h;
    h.architecture = architecture.name;
    h.rope_layout = architecture.rope_layout;
    h.n_layers = keys.required("block_count", 1, 4096);
    h.n_embd = keys.required("embedding_length", 1, 1u << 20);
    h.context_length = keys.required("context_length", 1, 1u << 30);
    h.n_ff = keys.checked("feed_forward_length", keys.uniform("feed_forward_length", h.n_layers).value_or(0), 0, 1u << 24);
    const auto n_heads = keys.uniform("attention.head_count", h.n_layers);
    if (!n_heads) fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name("attention.head_count"), " is missing");
    h.n_heads = keys.checked("attention.head_count", *n_heads, 1, 65536);
    h.n_kv_heads =
        keys.checked("attention.head_count_kv", keys.uniform("attention.head_count_kv", h.n_layers).value_or(h.n_heads), 1, h.n_heads);
    if (h.n_heads % h.n_kv_heads != 0) {
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name("attention.head_count"), " is ", h.n_heads,
             ", must be a multiple of head_count_kv ", h.n_kv_heads);
    }
    h.head_dim = keys.checked("attention.key_length", keys.u32("attention.key_length").value_or(h.n_embd / h.n_heads), 2, 1024);
    if (keys.u32("attention.value_length").value_or(h.head_dim) != h.head_dim) {
        fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys.name("attention.value_length"), " differs from key_length ", h.head_dim);
    }
    h.rms_epsilon = keys.positive("attention.layer_norm_rms_epsilon", 1e-5f);
    read_rope(file, keys, h);
    read_experts(file, keys, architecture, h);
    read_scheme(file, keys, h);
    const Tensor* embedding = file.find_tensor("token_embd.weight");
    if (embedding == nullptr) fail(DCA_ERROR_FORMAT, file.path(), ": tensor token_embd.weight is missing");
    h.n_vocab = static_cast<uint32_t>(embedding->rows);
    return h;
}

}  // namespace dca
