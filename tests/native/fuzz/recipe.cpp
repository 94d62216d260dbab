#include "fuzz/recipe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "dca.h"
#include "gguf_bytes.h"

namespace fuzz {

namespace {

using test::GgufBytes;

struct Format {
    uint32_t type;   // ggml_type
    uint32_t width;  // of the model: a multiple of the format's block
};

constexpr std::array kAllFormats{Format{0, 32},   Format{1, 32},   Format{30, 32},  Format{2, 32},   Format{3, 32},   Format{6, 32},
                                 Format{7, 32},   Format{8, 32},   Format{20, 32},  Format{39, 32},  Format{10, 256}, Format{11, 256},
                                 Format{12, 256}, Format{13, 256}, Format{14, 256}, Format{16, 256}, Format{17, 256}, Format{18, 256},
                                 Format{21, 256}, Format{22, 256}, Format{23, 256}};

/// Which tensors and keys a family has beside those of every model.
struct Family {
    const char* architecture;
    bool scheme = false;
    bool biases = false;         // of queries, keys and values
    bool head_norms = false;     // of queries and keys
    bool whole_norms = false;    // the same, over all heads
    bool fused = false;          // queries, keys and values in one tensor, and LongRoPE's factors
    bool fused_up = false;       // the feed-forward's gate over its up
    bool mixture = false;        // of experts
    bool shared = false;         // an expert that every token has
    bool expert_biases = false;  // the router's too
    bool norm_before = true, norm_after = false;
    bool parallel = false;  // attention and feed-forward behind one norm
    bool layer_norm = false, norm_biases = false;
    bool sinks = false;
    bool window = false;
    bool caps = false;
    bool scales = false;
    bool half_rotary = false;
    const char* ffn_norm = "ffn_norm.weight";
};

// Each of docs/models.md's architectures, and llama's with what a file of that name may have too.
constexpr std::array kAllFamilies{
    Family{.architecture = "llama"},
    Family{.architecture = "llama", .scheme = true, .biases = true},
    Family{.architecture = "qwen2", .scheme = true, .biases = true},
    Family{.architecture = "qwen3", .head_norms = true},
    Family{.architecture = "phi3", .scheme = true, .fused = true, .fused_up = true},
    Family{.architecture = "qwen2moe", .biases = true, .mixture = true, .shared = true},
    Family{.architecture = "qwen3moe", .scheme = true, .head_norms = true, .mixture = true},
    Family{.architecture = "gemma2", .norm_after = true, .window = true, .caps = true},
    Family{.architecture = "gemma3", .scheme = true, .head_norms = true, .norm_after = true, .window = true},
    Family{.architecture = "gpt-oss",
           .biases = true,
           .mixture = true,
           .expert_biases = true,
           .sinks = true,
           .window = true,
           .ffn_norm = "post_attention_norm.weight"},
    Family{.architecture = "smollm3", .scheme = true},
    Family{.architecture = "olmo2", .whole_norms = true, .norm_before = false, .norm_after = true, .window = true},
    Family{.architecture = "granite", .scheme = true, .scales = true},
    Family{.architecture = "granitemoe", .mixture = true, .scales = true},
    Family{.architecture = "glm4", .biases = true, .fused_up = true, .norm_after = true, .half_rotary = true},
    Family{.architecture = "command-r", .scheme = true, .parallel = true, .layer_norm = true, .scales = true},
    Family{.architecture = "cohere2", .parallel = true, .layer_norm = true, .window = true, .scales = true},
    Family{.architecture = "stablelm", .biases = true, .layer_norm = true, .norm_biases = true, .half_rotary = true},
    Family{.architecture = "internlm2"},
    Family{.architecture = "minicpm", .scheme = true, .scales = true}};

constexpr uint32_t head_dim = 16;
constexpr uint32_t n_experts = 4;

struct Value {
    std::string key;
    uint32_t type;  // GGUF value type
    std::string encoded;
};

struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;
    uint32_t type;
    uint64_t offset;
};

/// A file before it is written.
struct Draft {
    std::vector<Value> values;
    std::vector<Tensor> tensors;
    std::string data;

    void u32(const std::string& key, uint32_t value) { values.push_back({key, 4, GgufBytes::packed(value)}); }
    void f32(const std::string& key, float value) { values.push_back({key, 6, GgufBytes::packed(value)}); }
    void text(const std::string& key, const std::string& value) {
        values.push_back({key, 8, GgufBytes::packed<uint64_t>(value.size()) + value});
    }

    /// A tensor of small values: four rows that differ, over and over, because the best codes of a row take long to find.
    void tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type) {
        size_t rows = 1;
        for (size_t d = 1; d < dims.size(); ++d) rows *= dims[d];
        const size_t different = std::min<size_t>(rows, 4) * dims[0];
        std::vector<float> values(different);
        for (size_t i = 0; i < different; ++i) values[i] = std::sin(static_cast<float>(i * (tensors.size() + 3))) * 0.5f;
        dca_block_format format{};
        static_cast<void>(dca_block_format_get(type, &format));
        std::string period(different / format.block_size * format.block_bytes, '\0');
        if (dca_encode(type, values.data(), different, dims[0], 1, period.data(), period.size()) != DCA_OK) {
            // Formats that the library only reads: scales below 2, whatever lies where.
            for (size_t i = 0; i < period.size(); ++i) period[i] = static_cast<char>(i * 37 & 0x3f);
        }
        const size_t row_bytes = dims[0] / format.block_size * format.block_bytes;
        std::string blocks;
        while (blocks.size() < rows * row_bytes) blocks += period;
        blocks.resize(rows * row_bytes);
        tensors.push_back({name, std::move(dims), type, data.size()});
        data += blocks;
        data.resize((data.size() + 31) / 32 * 32);
    }

    std::string file() const {
        GgufBytes bytes;
        for (const Value& value : values) bytes.value_of(value.key, value.type, value.encoded);
        for (const Tensor& tensor : tensors) bytes.tensor(tensor.name, tensor.dims, tensor.type, tensor.offset);
        std::string whole = bytes.file(data.size());
        std::copy(data.begin(), data.end(), whole.end() - static_cast<ptrdiff_t>(data.size()));
        return whole;
    }
};

/// The keys of a family.
void write_keys(Draft& draft, const Family& family, uint32_t width, uint32_t heads, uint32_t kv_heads) {
    const std::string a = family.architecture;
    draft.text("general.architecture", a);
    draft.u32(a + ".block_count", 1);
    draft.u32(a + ".embedding_length", width);
    draft.u32(a + ".context_length", 64);
    draft.u32(a + ".feed_forward_length", width);
    draft.u32(a + ".attention.head_count", heads);
    draft.u32(a + ".attention.head_count_kv", kv_heads);
    draft.f32(a + (family.layer_norm ? ".attention.layer_norm_epsilon" : ".attention.layer_norm_rms_epsilon"), 1e-5f);
    draft.f32(a + ".rope.freq_base", 10000.0f);
    if (family.half_rotary) draft.u32(a + ".rope.dimension_count", head_dim / 2);
    if (family.window) draft.u32(a + ".attention.sliding_window", 5);
    if (family.caps) {
        draft.f32(a + ".attn_logit_softcapping", 50.0f);
        draft.f32(a + ".final_logit_softcapping", 30.0f);
    }
    if (family.scales) {
        draft.f32(a + ".embedding_scale", 12.0f);
        draft.f32(a + ".residual_scale", 0.25f);
        draft.f32(a + ".logit_scale", 8.0f);
        draft.f32(a + ".attention.scale", 0.1f);
    }
    if (family.fused) draft.u32(a + ".rope.scaling.original_context_length", 8);
    if (family.scheme) {
        draft.u32(a + ".attention.dca.chunk_size", 6);
        draft.u32(a + ".attention.dca.local_window", 3);
        draft.u32(a + ".attention.dca.pretraining_length", 16);
        draft.f32(a + ".attention.dca.logit_scale", 0.1f);
        draft.u32(a + ".attention.dca.logit_scale_length", 8);
    }
    if (family.mixture) {
        draft.u32(a + ".expert_count", n_experts);
        draft.u32(a + ".expert_used_count", 2);
        draft.u32(a + ".expert_feed_forward_length", width);
        if (family.shared) draft.u32(a + ".expert_shared_feed_forward_length", width);
    }
}

Draft model(const Family& family, const Format& format) {
    Draft draft;
    const uint32_t width = format.width, heads = width / head_dim, kv_heads = heads / 2, kv_width = kv_heads * head_dim;
    write_keys(draft, family, width, heads, kv_heads);
    draft.tensor("token_embd.weight", {width, n_vocab}, format.type);
    draft.tensor("output_norm.weight", {width}, 0);
    const auto block = [&](const char* name, std::vector<uint64_t> dims) {
        draft.tensor(std::string("blk.0.") + name, std::move(dims), format.type);
    };
    const auto floats = [&](const char* name, std::vector<uint64_t> dims) {
        draft.tensor(std::string("blk.0.") + name, std::move(dims), 0);
    };
    if (family.norm_before) {
        floats("attn_norm.weight", {width});
        if (!family.parallel) floats(family.ffn_norm, {width});
    }
    if (family.norm_after) {
        floats("post_attention_norm.weight", {width});
        floats("post_ffw_norm.weight", {width});
    }
    if (family.norm_biases) {
        floats("attn_norm.bias", {width});
        floats("ffn_norm.bias", {width});
        draft.tensor("output_norm.bias", {width}, 0);
    }
    if (family.fused) {
        block("attn_qkv.weight", {width, width + 2 * kv_width});
        draft.tensor("rope_factors_short.weight", {head_dim / 2}, 0);
        draft.tensor("rope_factors_long.weight", {head_dim / 2}, 0);
        std::string factors;
        for (uint32_t i = 0; i < head_dim / 2; ++i) factors += GgufBytes::packed(1.0f + static_cast<float>(i));
        for (size_t back : {2, 1}) draft.data.replace(draft.tensors[draft.tensors.size() - back].offset, factors.size(), factors);
    } else {
        block("attn_q.weight", {width, width});
        block("attn_k.weight", {width, kv_width});
        block("attn_v.weight", {width, kv_width});
    }
    if (family.biases) {
        floats("attn_q.bias", {width});
        floats("attn_k.bias", {kv_width});
        floats("attn_v.bias", {kv_width});
    }
    if (family.head_norms || family.whole_norms) {
        floats("attn_q_norm.weight", {family.whole_norms ? width : head_dim});
        floats("attn_k_norm.weight", {family.whole_norms ? kv_width : head_dim});
    }
    if (family.sinks) floats("attn_sinks.weight", {heads});
    block("attn_output.weight", {width, width});
    if (family.mixture) {
        floats("ffn_gate_inp.weight", {width, n_experts});
        for (const char* name : {"ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"})
            block(name, {width, width, n_experts});
        if (family.shared) {
            for (const char* name : {"ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"}) block(name, {width, width});
            floats("ffn_gate_inp_shexp.weight", {width});
        }
        if (family.expert_biases) {
            floats("attn_output.bias", {width});
            floats("ffn_gate_inp.bias", {n_experts});
            for (const char* name : {"ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias"}) floats(name, {width, n_experts});
        }
    } else if (family.fused_up) {
        block("ffn_up.weight", {width, 2 * width});
        block("ffn_down.weight", {width, width});
    } else {
        for (const char* name : {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}) block(name, {width, width});
    }
    return draft;
}

/// Numbers at which sums, products and casts go wrong.
uint64_t special_number(Bytes& recipe) {
    constexpr std::array<uint64_t, 18> numbers{0,          1,          2,          7,          15,         255,
                                               1u << 20,   1u << 27,   1u << 30,   0x7fffffff, 0x80000000, 0xffffffff,
                                               1ull << 32, 1ull << 40, 1ull << 62, ~0ull >> 1, 1ull << 63, ~0ull};
    return numbers[recipe.below(numbers.size())] + recipe.next() % 3 - 1;
}

float special_float(Bytes& recipe) {
    constexpr std::array numbers{0.0f, -1.0f, 1e-45f, 1e-30f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN, 1.0f, 65504.0f};
    return numbers[recipe.below(numbers.size())];
}

/// One edit of the draft. False: the edits of the written file follow.
bool edit(Draft& draft, Bytes& recipe) {
    const uint8_t kind = recipe.next() % 14;
    Value& value = draft.values[recipe.below(draft.values.size())];
    Tensor& tensor = draft.tensors[recipe.below(draft.tensors.size())];
    switch (kind) {
        case 0: std::erase_if(draft.tensors, [name = tensor.name](const Tensor& other) { return other.name == name; }); break;
        case 1: tensor.name = draft.tensors[recipe.below(draft.tensors.size())].name; break;
        case 2: {
            const std::string_view suffix = tensor.name.ends_with(".weight") ? ".weight" : ".bias";
            tensor.name = tensor.name.substr(0, tensor.name.size() - suffix.size()) + (suffix == ".bias" ? ".weight" : ".bias");
            break;
        }
        case 3: tensor.type = recipe.below(40); break;
        case 4: tensor.dims[recipe.below(tensor.dims.size())] = special_number(recipe); break;
        case 5: tensor.dims.resize(recipe.below(6), 1); break;
        case 6: tensor.offset = special_number(recipe); break;
        case 7: value.encoded = GgufBytes::packed(static_cast<uint32_t>(special_number(recipe))); break;
        case 8: value.encoded = GgufBytes::packed(special_float(recipe)); break;
        case 9: value.type = recipe.below(14); break;
        case 10: value.key += static_cast<char>(recipe.next()); break;
        case 11: {  // a value of a tensor, or part of one
            const std::string bytes = GgufBytes::packed(special_float(recipe));
            if (draft.data.size() < bytes.size()) break;
            draft.data.replace((recipe.below(65536) * 4) % (draft.data.size() - 3), bytes.size(), bytes);
            break;
        }
        case 12:
            draft.values.push_back(
                {value.key + "x", 9, GgufBytes::packed<uint32_t>(recipe.below(14)) + GgufBytes::packed(special_number(recipe))});
            break;
        default: return false;
    }
    return !draft.tensors.empty();
}

}  // namespace

size_t families() noexcept { return kAllFamilies.size(); }
size_t formats() noexcept { return kAllFormats.size(); }

std::string cook(Bytes& recipe) {
    static std::array<std::array<std::optional<Draft>, kAllFormats.size()>, kAllFamilies.size()> whole;
    const size_t family = recipe.next() % kAllFamilies.size(), format = recipe.next() % kAllFormats.size();
    if (!whole[family][format]) whole[family][format] = model(kAllFamilies[family], kAllFormats[format]);
    Draft draft = *whole[family][format];
    while (!recipe.empty() && edit(draft, recipe)) {}
    std::string file = draft.file();
    const size_t header = file.size() - draft.data.size();
    while (!recipe.empty()) {
        const uint8_t byte = recipe.next();
        if (byte == 0) {
            file.resize(1 + recipe.below(file.size()));
        } else {
            file[recipe.below(std::min(header, file.size()))] = static_cast<char>(byte);
        }
    }
    return file;
}

}  // namespace fuzz
