#include "core/weights.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "core/error.h"

namespace dca {

namespace {

class Loader {
public:
    explicit Loader(const GgufFile& file) : file_(file) {}

    Tensor matrix(const std::string& name, int64_t rows, int64_t cols, int64_t depth = 1) const {
        const Tensor tensor = optional_matrix(name, rows, cols, depth);
        if (!tensor) fail(DCA_ERROR_FORMAT, file_.path(), ": tensor ", name, " is missing");
        return tensor;
    }

    Tensor optional_matrix(const std::string& name, int64_t rows, int64_t cols, int64_t depth = 1) const {
        const Tensor* tensor = file_.find_tensor(name);
        if (tensor == nullptr) return {};
        taken_.insert(tensor);
        if (tensor->rows != rows || tensor->cols != cols || tensor->depth != depth) {
            fail(DCA_ERROR_FORMAT, file_.path(), ": tensor ", name, " has shape ", tensor->depth, "x", tensor->rows, "x", tensor->cols,
                 ", must be ", depth, "x", rows, "x", cols);
        }
        return *tensor;
    }

    std::vector<float> vector(const std::string& name, int64_t length) const {
        auto values = optional_vector(name, length);
        if (values.empty()) fail(DCA_ERROR_FORMAT, file_.path(), ": tensor ", name, " is missing");
        return values;
    }

    std::vector<float> optional_vector(const std::string& name, int64_t length) const { return optional_vectors(name, 1, length); }

    /// One vector below the other.
    std::vector<float> optional_vectors(const std::string& name, int64_t rows, int64_t length) const {
        const Tensor tensor = optional_matrix(name, rows, length);
        if (!tensor) return {};
        std::vector<float> values(static_cast<size_t>(rows * length));
        decode_blocks(tensor.type, tensor.data, rows * length, values.data());
        return values;
    }

    /// The weights that norm `heads` heads of q or k: the same for every head, each its own, or one norm over all of them.
    std::vector<float> head_norm(const std::string& name, int64_t heads, const Hparams& h) const {
        const Tensor* tensor = file_.find_tensor(name);
        if (h.whole_width_qk_norm) return vector(name, heads * h.head_dim);
        const bool own = tensor != nullptr && tensor->rows > 1;
        return optional_vectors(name, own ? heads : 1, h.head_dim);
    }

    struct Named {
        const char* name;
        bool there;
    };
    /// Throws unless all or none of the layer's tensors `parts` are there: what computes with one computes with all.
    void together(const std::string& prefix, std::initializer_list<Named> parts) const {
        const auto there = [](const Named& part) { return part.there; };
        if (std::ranges::all_of(parts, there) || std::ranges::none_of(parts, there)) return;
        const Named* has = std::ranges::find_if(parts, there);
        const Named* lacks = std::ranges::find_if_not(parts, there);
        fail(DCA_ERROR_FORMAT, file_.path(), ": tensor ", prefix, has->name, " is there but ", prefix, lacks->name,
             " is missing; they belong together");
    }

    /// Throws if the file has a tensor that nobody asked for: what a model consists of and is left out changes its answers.
    void all_taken(const std::string& architecture) const {
        for (const Tensor& tensor : file_.tensors()) {
            if (taken_.contains(&tensor) || tensor.name == "rope_freqs.weight") continue;  // LongRoPE has factors of its own
            fail(DCA_ERROR_UNSUPPORTED, file_.path(), ": tensor ", tensor.name, " is none that this version computes with in a ",
                 architecture, " model of this kind");
        }
    }

private:
    const GgufFile& file_;
    mutable std::set<const Tensor*> taken_;
};

void read_attention(const Loader& load, const std::string& prefix, const Hparams& h, LayerWeights& layer) {
    const int64_t q_rows = h.q_width();
    const int64_t kv_rows = h.kv_width();
    if (h.norms != Norms::After) layer.attention_norm = load.vector(prefix + "attn_norm.weight", h.n_embd);
    if (h.norm == NormKind::Layer) layer.attention_norm_bias = load.optional_vector(prefix + "attn_norm.bias", h.n_embd);
    if (const Tensor fused = load.optional_matrix(prefix + "attn_qkv.weight", q_rows + 2 * kv_rows, h.n_embd)) {
        layer.q = fused.row_slice(0, q_rows);
        layer.k = fused.row_slice(q_rows, kv_rows);
        layer.v = fused.row_slice(q_rows + kv_rows, kv_rows);
    } else {
        layer.q = load.matrix(prefix + "attn_q.weight", q_rows, h.n_embd);
        layer.k = load.matrix(prefix + "attn_k.weight", kv_rows, h.n_embd);
        layer.v = load.matrix(prefix + "attn_v.weight", kv_rows, h.n_embd);
    }
    layer.q_bias = load.optional_vector(prefix + "attn_q.bias", q_rows);
    layer.k_bias = load.optional_vector(prefix + "attn_k.bias", kv_rows);
    layer.v_bias = load.optional_vector(prefix + "attn_v.bias", kv_rows);
    layer.q_norm = load.head_norm(prefix + "attn_q_norm.weight", h.n_heads, h);
    layer.k_norm = load.head_norm(prefix + "attn_k_norm.weight", h.n_kv_heads, h);
    layer.sinks = load.optional_vector(prefix + "attn_sinks.weight", h.n_heads);
    load.together(prefix,
                  {{"attn_q.bias", !layer.q_bias.empty()}, {"attn_k.bias", !layer.k_bias.empty()}, {"attn_v.bias", !layer.v_bias.empty()}});
    load.together(prefix, {{"attn_q_norm.weight", !layer.q_norm.empty()}, {"attn_k_norm.weight", !layer.k_norm.empty()}});
    layer.output = load.matrix(prefix + "attn_output.weight", h.n_embd, q_rows);
    layer.output_bias = load.optional_vector(prefix + "attn_output.bias", h.n_embd);
}

/// The norms around the feed-forward, and the one behind attention.
void read_block_norms(const Loader& load, const std::string& prefix, const Hparams& h, LayerWeights& layer) {
    if (h.norms == Norms::After || h.norms == Norms::BeforeAndAfter) {
        layer.attention_post_norm = load.vector(prefix + "post_attention_norm.weight", h.n_embd);
        layer.ffn_post_norm = load.vector(prefix + "post_ffw_norm.weight", h.n_embd);
    }
    if (h.norms == Norms::Before || h.norms == Norms::BeforeAndAfter) {
        layer.ffn_norm = load.optional_vector(prefix + "ffn_norm.weight", h.n_embd);
        // gpt-oss calls it after the block it follows.
        if (layer.ffn_norm.empty() && h.norms == Norms::Before)
            layer.ffn_norm = load.optional_vector(prefix + "post_attention_norm.weight", h.n_embd);
        if (layer.ffn_norm.empty()) layer.ffn_norm = load.vector(prefix + "ffn_norm.weight", h.n_embd);
        if (h.norm == NormKind::Layer) layer.ffn_norm_bias = load.optional_vector(prefix + "ffn_norm.bias", h.n_embd);
    }
}

void read_dense(const Loader& load, const std::string& prefix, const Hparams& h, LayerWeights& layer) {
    layer.gate = load.optional_matrix(prefix + "ffn_gate.weight", h.n_ff, h.n_embd);
    if (layer.gate) {
        layer.up = load.matrix(prefix + "ffn_up.weight", h.n_ff, h.n_embd);
        layer.gate_bias = load.optional_vector(prefix + "ffn_gate.bias", h.n_ff);
        layer.up_bias = load.optional_vector(prefix + "ffn_up.bias", h.n_ff);
    } else {
        // Phi-3 stacks gate over up in one tensor.
        const Tensor fused = load.matrix(prefix + "ffn_up.weight", 2 * static_cast<int64_t>(h.n_ff), h.n_embd);
        layer.gate = fused.row_slice(0, h.n_ff);
        layer.up = fused.row_slice(h.n_ff, h.n_ff);
    }
    layer.down = load.matrix(prefix + "ffn_down.weight", h.n_embd, h.n_ff);
    layer.down_bias = load.optional_vector(prefix + "ffn_down.bias", h.n_embd);
    load.together(prefix, {{"ffn_gate.bias", !layer.gate_bias.empty()},
                           {"ffn_up.bias", !layer.up_bias.empty()},
                           {"ffn_down.bias", !layer.down_bias.empty()}});
}

void read_mixture(const Loader& load, const std::string& prefix, const Hparams& h, LayerWeights& layer) {
    layer.router = load.matrix(prefix + "ffn_gate_inp.weight", h.n_experts, h.n_embd);
    layer.expert_gate = load.matrix(prefix + "ffn_gate_exps.weight", h.n_ff_expert, h.n_embd, h.n_experts);
    layer.expert_up = load.matrix(prefix + "ffn_up_exps.weight", h.n_ff_expert, h.n_embd, h.n_experts);
    layer.expert_down = load.matrix(prefix + "ffn_down_exps.weight", h.n_embd, h.n_ff_expert, h.n_experts);
    layer.router_bias = load.optional_vector(prefix + "ffn_gate_inp.bias", h.n_experts);
    layer.expert_gate_bias = load.optional_vectors(prefix + "ffn_gate_exps.bias", h.n_experts, h.n_ff_expert);
    layer.expert_up_bias = load.optional_vectors(prefix + "ffn_up_exps.bias", h.n_experts, h.n_ff_expert);
    layer.expert_down_bias = load.optional_vectors(prefix + "ffn_down_exps.bias", h.n_experts, h.n_embd);
    load.together(prefix, {{"ffn_gate_exps.bias", !layer.expert_gate_bias.empty()},
                           {"ffn_up_exps.bias", !layer.expert_up_bias.empty()},
                           {"ffn_down_exps.bias", !layer.expert_down_bias.empty()}});
    if (h.n_ff_shared == 0) return;
    layer.shared_gate = load.matrix(prefix + "ffn_gate_shexp.weight", h.n_ff_shared, h.n_embd);
    layer.shared_up = load.matrix(prefix + "ffn_up_shexp.weight", h.n_ff_shared, h.n_embd);
    layer.shared_down = load.matrix(prefix + "ffn_down_shexp.weight", h.n_embd, h.n_ff_shared);
    layer.shared_router = load.optional_vector(prefix + "ffn_gate_inp_shexp.weight", h.n_embd);
}

}  // namespace

Weights read_weights(const GgufFile& file, const Hparams& h) {
    const Loader load(file);
    Weights weights;
    weights.token_embedding = load.matrix("token_embd.weight", h.n_vocab, h.n_embd);
    weights.output_norm = load.vector("output_norm.weight", h.n_embd);
    if (h.norm == NormKind::Layer) weights.output_norm_bias = load.optional_vector("output_norm.bias", h.n_embd);
    weights.output = load.optional_matrix("output.weight", h.n_vocab, h.n_embd);
    if (!weights.output) weights.output = weights.token_embedding;
    const int64_t n_frequencies = h.rotary_dim / 2;
    if (h.rope_scaling == RopeScaling::LongRope) {
        weights.rope_factors = load.vector("rope_factors_short.weight", n_frequencies);
        weights.rope_factors_long = load.vector("rope_factors_long.weight", n_frequencies);
    } else {
        weights.rope_factors = load.optional_vector("rope_freqs.weight", n_frequencies);
    }
    weights.layers.resize(h.n_layers);
    for (uint32_t i = 0; i < h.n_layers; ++i) {
        const std::string prefix = "blk." + std::to_string(i) + ".";
        LayerWeights& layer = weights.layers[i];
        read_attention(load, prefix, h, layer);
        read_block_norms(load, prefix, h, layer);
        if (h.n_experts == 0) {
            read_dense(load, prefix, h, layer);
        } else {
            read_mixture(load, prefix, h, layer);
        }
    }
    load.all_taken(h.architecture);
    return weights;
}

}  // namespace dca
