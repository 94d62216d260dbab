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
    RopeLayout rope_layout = RopeLayout::Halves;
    bool expert_weights_norm = false;  // of a mixture whose file does not say
    NormKind norm = NormKind::Rms;
    Norms norms = Norms::Before;
    bool whole_width_qk_norm = false;
    Activation activation = Activation::Silu;
    bool embedding_scaled_by_width = false;  // by its root
    bool logit_scale_divides = false;
    bool states_scales = false;      // its files state those of embeddings, residuals and logits
    uint32_t window_period = 0;      // every so many layers one sees everything, the others have a window; 0: none has one
    float window_rope_base = 0.0f;   // where the file states none; 0: that of the other layers
    bool window_rope_scaled = true;  // whether windowed layers have the file's RoPE scaling
    bool yarn_exact_ramp = false;
    bool only_windows_rotate = false;  // layers that see everything have no RoPE
    uint32_t unrotated_period = 0;     // every so many layers one has no RoPE; 0: all have it
    uint32_t width_scaled_layers = 0;  // the model of so many layers scales q · k by the root of n_heads / n_embd
};

constexpr std::array kArchitectures{
    Architecture{.name = "llama", .rope_layout = RopeLayout::Interleaved, .expert_weights_norm = true},  // Mistral and Mixtral too
    Architecture{.name = "qwen2"},
    Architecture{.name = "qwen3"},
    Architecture{.name = "phi3"},
    Architecture{.name = "qwen2moe"},
    Architecture{.name = "qwen3moe", .expert_weights_norm = true},
    Architecture{.name = "gemma2",
                 .norms = Norms::BeforeAndAfter,
                 .activation = Activation::Gelu,
                 .embedding_scaled_by_width = true,
                 .window_period = 2,
                 .width_scaled_layers = 46},
    Architecture{.name = "gemma3",
                 .norms = Norms::BeforeAndAfter,
                 .activation = Activation::Gelu,
                 .embedding_scaled_by_width = true,
                 .window_period = 6,
                 .window_rope_base = 10000.0f,
                 .window_rope_scaled = false,
                 .width_scaled_layers = 62},
    Architecture{.name = "gpt-oss",
                 .expert_weights_norm = true,
                 .activation = Activation::ClampedSwiglu,
                 .window_period = 2,
                 .yarn_exact_ramp = true},
    Architecture{.name = "smollm3", .rope_layout = RopeLayout::Interleaved, .unrotated_period = 4},
    Architecture{.name = "olmo2",  // OLMo 3 too
                 .norms = Norms::After,
                 .whole_width_qk_norm = true,
                 .window_period = 4,
                 .window_rope_scaled = false},
    Architecture{.name = "granite", .rope_layout = RopeLayout::Interleaved, .logit_scale_divides = true},
    Architecture{.name = "granitemoe", .rope_layout = RopeLayout::Interleaved, .expert_weights_norm = true, .logit_scale_divides = true},
    Architecture{.name = "glm4", .rope_layout = RopeLayout::Interleaved, .norms = Norms::BeforeAndAfter},
    Architecture{.name = "command-r", .rope_layout = RopeLayout::Interleaved, .norm = NormKind::Layer, .norms = Norms::Parallel},
    Architecture{.name = "cohere2",
                 .rope_layout = RopeLayout::Interleaved,
                 .norm = NormKind::Layer,
                 .norms = Norms::Parallel,
                 .window_period = 4,
                 .only_windows_rotate = true},
    Architecture{.name = "stablelm", .norm = NormKind::Layer},
    Architecture{.name = "internlm2", .rope_layout = RopeLayout::Interleaved},
    Architecture{.name = "minicpm", .rope_layout = RopeLayout::Interleaved, .logit_scale_divides = true, .states_scales = true},
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

    /// 0 where there is none.
    float positive_or_none(std::string_view key) const { return f32(key) ? positive(key, 0.0f) : 0.0f; }

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

/// Which layers have a window: as the file lists it, or else every layer but each period's last.
void read_windows(const GgufFile& file, const Keys& keys, const Architecture& architecture, Hparams& h) {
    h.layers.resize(h.n_layers);
    const uint32_t window = architecture.window_period != 0 ? keys.u32("attention.sliding_window").value_or(0) : 0;
    if (window != 0) {
        h.window = keys.checked("attention.sliding_window", window, 1, 1u << 29);
        uint32_t period = architecture.window_period;
        std::vector<uint32_t> listed = file.get_u32_list(keys.name("attention.sliding_window_pattern")).value_or(std::vector<uint32_t>{});
        if (listed.size() == 1 && h.n_layers != 1) {
            period = keys.checked("attention.sliding_window_pattern", listed.front(), 1, 4096);
            listed.clear();
        }
        if (!listed.empty() && listed.size() != h.n_layers) {
            fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name("attention.sliding_window_pattern"), " has ", listed.size(),
                 " entries, must have 1 or ", h.n_layers);
        }
        for (uint32_t i = 0; i < h.n_layers; ++i) h.layers[i].windowed = listed.empty() ? i % period != period - 1 : listed[i] != 0;
    }
    for (uint32_t i = 0; i < h.n_layers; ++i) {
        if (architecture.only_windows_rotate) h.layers[i].rotated = h.layers[i].windowed;
        if (architecture.unrotated_period != 0) h.layers[i].rotated = (i + 1) % architecture.unrotated_period != 0;
    }
    h.window_rope_base =
        keys.positive("rope.freq_base_swa", architecture.window_rope_base != 0.0f ? architecture.window_rope_base : h.rope_base);
    h.window_rope_scaled = architecture.window_rope_scaled;
}

void read_norms(const Keys& keys, const GgufFile& file, const Architecture& architecture, Hparams& h) {
    h.norm = architecture.norm;
    h.norms = architecture.norms;
    if (file.get_bool(keys.name("use_parallel_residual")).value_or(false)) h.norms = Norms::Parallel;
    h.rms_epsilon = keys.positive(h.norm == NormKind::Layer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f);
    h.whole_width_qk_norm = architecture.whole_width_qk_norm;
}

void read_scales(const Keys& keys, const Architecture& architecture, Hparams& h) {
    const float unstated = architecture.states_scales ? 0.0f : 1.0f;  // 0 is refused
    h.embedding_scale =
        keys.positive("embedding_scale", architecture.embedding_scaled_by_width ? std::sqrt(static_cast<float>(h.n_embd)) : unstated);
    h.residual_scale = keys.positive("residual_scale", unstated);
    h.logit_scale = keys.positive("logit_scale", unstated);
    if (architecture.logit_scale_divides) h.logit_scale = 1.0f / h.logit_scale;
    h.logit_cap = keys.positive_or_none("final_logit_softcapping");
    h.attention_cap = keys.positive_or_none("attn_logit_softcapping");
    const bool by_heads = architecture.width_scaled_layers != 0 && h.n_layers == architecture.width_scaled_layers;
    const float usual = 1.0f / std::sqrt(static_cast<float>(by_heads ? h.n_embd / h.n_heads : h.head_dim));
    h.attention_scale = keys.positive("attention.scale", usual);
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
    constexpr uint32_t softmax = 1, softmax_of_chosen = 3;
    const uint32_t gating = keys.u32("expert_gating_func").value_or(softmax);
    if (gating == softmax_of_chosen) h.expert_weights_norm = true;  // the same number, as exp(a) / Σ exp is
    if (gating != softmax && gating != softmax_of_chosen) {
        fail(DCA_ERROR_UNSUPPORTED, file.path(), ": ", keys.name("expert_gating_func"), " is ", gating,
             ", must be 1 (softmax) or 3 (softmax of the chosen), the ones this version runs");
    }
}

void read_border(const GgufFile& file, const Keys& keys, Hparams& h) {
    const auto border = keys.u32("attention.string.border");
    if (!border) return;
    h.border.window = keys.checked("attention.string.border", *border, 1, 1u << 30);
    h.border.beyond = keys.required("attention.string.local_window", 0, h.border.window);
    if (h.scheme.chunk_size != 0) {
        fail(DCA_ERROR_FORMAT, file.path(), ": states both ", keys.name("attention.dca.chunk_size"), " and ",
             keys.name("attention.string.border"), "; a file has one of them");
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

/// A number for each head of queries, layer after layer.
std::vector<uint32_t> read_budget(const GgufFile& file, const Keys& keys, const Hparams& h, std::string_view key, uint32_t least) {
    constexpr uint32_t most = 1u << 30;  // tokens that a sequence can have
    const auto list = file.get_u32_list(keys.name(key));
    if (!list) fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name(key), " is missing");
    const uint64_t heads = uint64_t{h.n_layers} * h.n_heads;
    if (list->size() != heads) {
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name(key), " has ", list->size(), " values, must have ", heads,
             ", one for each head of each layer");
    }
    for (const uint32_t value : *list) {
        if (value >= least && value <= most) continue;
        fail(DCA_ERROR_FORMAT, file.path(), ": ", keys.name(key), " holds ", value, ", must be ", least, " to ", most);
    }
    return *list;
}

void read_budgets(const GgufFile& file, const Keys& keys, Hparams& h) {
    if (file.find(keys.name("attention.budget.columns")) == nullptr) return;
    const std::vector<uint32_t> columns = read_budget(file, keys, h, "attention.budget.columns", 0);
    const std::vector<uint32_t> diagonals = read_budget(file, keys, h, "attention.budget.diagonals", 1);
    for (size_t i = 0; i < columns.size(); ++i) h.budgets.heads.push_back({columns[i], diagonals[i]});
    h.budgets.from = keys.required("attention.budget.threshold", 0, 1u << 30);
    h.budgets.last_queries = keys.required("attention.budget.last_queries", 1, 1024);
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
    h.activation = architecture.activation;
    read_norms(keys, file, architecture, h);
    read_rope(file, keys, h);
    h.yarn_exact_ramp = architecture.yarn_exact_ramp;
    read_windows(file, keys, architecture, h);
    read_scales(keys, architecture, h);
    read_experts(file, keys, architecture, h);
    read_scheme(file, keys, h);
    read_border(file, keys, h);
    read_budgets(file, keys, h);
    const Tensor* embedding = file.find_tensor("token_embd.weight");
    if (embedding == nullptr) fail(DCA_ERROR_FORMAT, file.path(), ": tensor token_embd.weight is missing");
    h.n_vocab = static_cast<uint32_t>(embedding->rows);
    return h;
}

}  // namespace dca
