// Metadata: what each key may say, read by its type, and a message that names the key where it says something else.
#include "core/hparams.h"

#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "gguf_bytes.h"
#include "temporary_file.h"

using test::GgufBytes;

namespace {

template <class T>
std::string packed(T value) {
    return GgufBytes::packed(value);
}

std::string packed_text(const std::string& text) { return packed<uint64_t>(text.size()) + text; }

struct Entry {
    std::string key;
    uint32_t type;  // GGUF value type
    std::string encoded;
};

Entry u32(const std::string& key, uint32_t value) { return {"llama." + key, 4, packed(value)}; }
Entry f32(const std::string& key, float value) { return {"llama." + key, 6, packed(value)}; }
Entry text(const std::string& key, const std::string& value) { return {"llama." + key, 8, packed_text(value)}; }
Entry u32s(const std::string& key, const std::vector<uint32_t>& values) {
    std::string encoded = packed<uint32_t>(4) + packed<uint64_t>(values.size());
    for (const uint32_t value : values) encoded += packed(value);
    return {"llama." + key, 9, encoded};
}

/// The hparams of a small llama with these entries in place of its own or beside them.
dca::Hparams hparams_of(const std::vector<Entry>& changes, bool embedding = true) {
    std::vector<Entry> all{{"general.architecture", 8, packed_text("llama")},
                           u32("block_count", 2),
                           u32("embedding_length", 64),
                           u32("context_length", 128),
                           u32("feed_forward_length", 96),
                           u32("attention.head_count", 4)};
    for (const Entry& change : changes) {
        std::erase_if(all, [&](const Entry& entry) { return entry.key == change.key; });
        if (change.encoded.size() != 0) all.push_back(change);
    }
    GgufBytes bytes;
    for (const Entry& entry : all) bytes.value_of(entry.key, entry.type, entry.encoded);
    if (embedding) bytes.tensor("token_embd.weight", {64, 10}, 0, 0);
    const test::TemporaryFile file(bytes.file(64 * 10 * 4));
    return dca::read_hparams(dca::GgufFile(file.path()));
}

/// Reading fails with this status and a message that names `names`.
void refused(const std::vector<Entry>& changes, dca_status status, const std::string& names) {
    try {
        hparams_of(changes);
        CHECK(names == "an error");
    } catch (const dca::Error& error) {
        CHECK(error.status() == status);
        CHECK(std::string(error.what()).find(names) != std::string::npos);
    }
}

}  // namespace

TEST(hparams_of_a_small_model_are_what_its_keys_say) {
    const dca::Hparams h = hparams_of({});
    CHECK(h.n_vocab == 10u);
    CHECK(h.n_kv_heads == 4u);
    CHECK(h.head_dim == 16u);
    CHECK(h.rotary_dim == 16u);
    CHECK(h.rope_original_context == 128u);
}

TEST(hparams_take_an_integer_of_any_type) {
    const std::vector<Entry> sevens{{"llama.block_count", 0, packed<uint8_t>(7)},   {"llama.block_count", 1, packed<int8_t>(7)},
                                    {"llama.block_count", 2, packed<uint16_t>(7)},  {"llama.block_count", 3, packed<int16_t>(7)},
                                    {"llama.block_count", 4, packed<uint32_t>(7)},  {"llama.block_count", 5, packed<int32_t>(7)},
                                    {"llama.block_count", 10, packed<uint64_t>(7)}, {"llama.block_count", 11, packed<int64_t>(7)}};
    for (const Entry& seven : sevens) CHECK(hparams_of({seven}).n_layers == 7u);
    for (const Entry& wrong :
         {Entry{"llama.block_count", 5, packed<int32_t>(-1)}, Entry{"llama.block_count", 10, packed<uint64_t>(1ull << 40)},
          Entry{"llama.block_count", 6, packed(7.0f)}, Entry{"llama.block_count", 8, packed_text("7")}})
        refused({wrong}, DCA_ERROR_FORMAT, "llama.block_count must be an integer");
}

TEST(hparams_take_a_number_of_any_type) {
    CHECK(hparams_of({{"llama.rope.freq_base", 12, packed(5e5)}}).rope_base == 5e5f);
    CHECK(hparams_of({u32("rope.freq_base", 500000)}).rope_base == 5e5f);
    refused({text("rope.freq_base", "many")}, DCA_ERROR_FORMAT, "llama.rope.freq_base must be a number");
    for (const float bad : {0.0f, -1.0f, INFINITY, NAN}) refused({f32("rope.freq_base", bad)}, DCA_ERROR_FORMAT, "llama.rope.freq_base");
}

TEST(hparams_that_every_layer_has_may_be_a_list) {
    CHECK(hparams_of({u32s("attention.head_count_kv", {2, 2})}).n_kv_heads == 2u);
    CHECK(hparams_of({u32s("attention.head_count_kv", {2})}).n_kv_heads == 2u);
    refused({u32s("attention.head_count_kv", {2, 1})}, DCA_ERROR_UNSUPPORTED, "head_count_kv differs from layer to layer");
    refused({u32s("attention.head_count_kv", {2, 2, 2})}, DCA_ERROR_FORMAT, "head_count_kv has 3 entries");
    refused({u32s("attention.head_count_kv", {})}, DCA_ERROR_FORMAT, "head_count_kv has 0 entries");
    refused({{"llama.attention.head_count_kv", 9, packed<uint32_t>(8) + packed<uint64_t>(1) + packed_text("2")}}, DCA_ERROR_FORMAT,
            "head_count_kv must be a list of integers");
    refused({{"llama.attention.head_count_kv", 9, packed<uint32_t>(5) + packed<uint64_t>(1) + packed<int32_t>(-2)}}, DCA_ERROR_FORMAT,
            "head_count_kv must be a list of integers");
}

TEST(hparams_that_are_missing_or_out_of_range_name_their_key) {
    for (const char* key : {"block_count", "embedding_length", "context_length", "attention.head_count"})
        refused({{std::string("llama.") + key, 4, ""}}, DCA_ERROR_FORMAT, std::string(key) + " is missing");
    refused({{"general.architecture", 4, ""}}, DCA_ERROR_FORMAT, "general.architecture is missing");
    refused({{"general.architecture", 4, packed<uint32_t>(3)}}, DCA_ERROR_FORMAT, "general.architecture must be a string");
    refused({{"general.architecture", 8, packed_text("gpt2")}}, DCA_ERROR_UNSUPPORTED, "general.architecture is gpt2");
    refused({u32("block_count", 0)}, DCA_ERROR_FORMAT, "llama.block_count is 0");
    refused({u32("attention.head_count_kv", 3)}, DCA_ERROR_FORMAT, "must be a multiple of head_count_kv 3");
    refused({u32("attention.value_length", 8)}, DCA_ERROR_UNSUPPORTED, "attention.value_length differs");
    refused({u32("rope.dimension_count", 7)}, DCA_ERROR_FORMAT, "rope.dimension_count is 7, must be even");
    refused({u32("split.count", 2), {"split.count", 2, packed<uint16_t>(2)}}, DCA_ERROR_UNSUPPORTED, "split.count");
    CHECK_ERROR(hparams_of({}, false), DCA_ERROR_FORMAT);
}

TEST(hparams_of_rope_name_its_kind) {
    CHECK(hparams_of({text("rope.scaling.type", "linear")}).rope_scaling == dca::RopeScaling::Linear);
    CHECK(hparams_of({text("rope.scaling.type", "yarn")}).rope_scaling == dca::RopeScaling::Yarn);
    CHECK(hparams_of({text("rope.scaling.type", "longrope")}).rope_scaling == dca::RopeScaling::LongRope);
    CHECK(hparams_of({text("rope.scaling.type", "none")}).rope_scaling == dca::RopeScaling::None);
    refused({text("rope.scaling.type", "su")}, DCA_ERROR_UNSUPPORTED, "rope.scaling.type is su");
}

TEST(hparams_of_a_mixture_are_checked_together) {
    const std::vector<Entry> mixture{u32("expert_count", 4), u32("expert_used_count", 2)};
    CHECK(hparams_of(mixture).n_experts_used == 2u);
    refused({u32("expert_count", 4)}, DCA_ERROR_FORMAT, "expert_used_count is missing");
    refused({u32("expert_count", 4), u32("expert_used_count", 5)}, DCA_ERROR_FORMAT, "expert_used_count is 5");
    refused({u32("expert_count", 4), u32("expert_used_count", 2), u32("expert_gating_func", 2)}, DCA_ERROR_UNSUPPORTED,
            "expert_gating_func");
    const Entry normalised{"llama.expert_weights_norm", 7, packed<uint8_t>(0)};
    CHECK(!hparams_of({mixture[0], mixture[1], normalised}).expert_weights_norm);
    refused({mixture[0], mixture[1], u32("expert_weights_norm", 1)}, DCA_ERROR_FORMAT, "expert_weights_norm must be a bool");
}

TEST(hparams_hold_strings_border_in_place_of_a_scheme) {
    const dca::Hparams h = hparams_of({u32("attention.string.border", 40), u32("attention.string.local_window", 8)});
    CHECK(h.border.window == 40u);
    CHECK(h.border.beyond == 8u);
    CHECK(h.scheme.chunk_size == 0u);
    CHECK(hparams_of({}).border.window == 0u);
    refused({u32("attention.string.border", 40)}, DCA_ERROR_FORMAT, "llama.attention.string.local_window is missing");
    refused({u32("attention.string.border", 0), u32("attention.string.local_window", 0)}, DCA_ERROR_FORMAT, "string.border is 0");
    refused({u32("attention.string.border", 40), u32("attention.string.local_window", 41)}, DCA_ERROR_FORMAT, "must be 0 to 40");
    refused({u32("attention.string.border", 40), u32("attention.string.local_window", 8), u32("attention.dca.chunk_size", 12),
             u32("attention.dca.local_window", 4), u32("attention.dca.pretraining_length", 16)},
            DCA_ERROR_FORMAT, "states both");
}
