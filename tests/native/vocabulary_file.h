// GGUF files that hold a tokenizer and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf_bytes.h"

namespace test {

/// An array as a GGUF value: the elements' type, their number, and they themselves.
template <class T>
std::string array_of(uint32_t element_type, const std::vector<T>& elements) {
    std::string out = GgufBytes::packed(element_type) + GgufBytes::packed<uint64_t>(elements.size());
    for (const T& element : elements) out += GgufBytes::packed(element);
    return out;
}

inline std::string array_of(const std::vector<std::string>& elements) {
    std::string out = GgufBytes::packed<uint32_t>(8) + GgufBytes::packed<uint64_t>(elements.size());
    for (const std::string& element : elements) out += GgufBytes::packed<uint64_t>(element.size()) + element;
    return out;
}

/// What the keys of a tokenizer say; what is empty has no key.
struct VocabularyFile {
    std::string model = "gpt2";
    std::string pre = "gpt-2";
    std::vector<std::string> tokens;
    std::vector<int32_t> types;
    std::vector<float> scores;
    std::vector<std::string> merges;
    std::vector<uint8_t> character_map;
    std::vector<int32_t> end_ids;
    int64_t bos = -1, eos = -1;
    int add_bos = -1, add_eos = -1, space_prefix = -1, remove_extra_spaces = -1;  // -1: not said

    GgufBytes values() const {
        GgufBytes file;
        file.text("tokenizer.ggml.model", model);
        if (!pre.empty()) file.text("tokenizer.ggml.pre", pre);
        file.value_of("tokenizer.ggml.tokens", 9, array_of(tokens));
        if (!types.empty()) file.value_of("tokenizer.ggml.token_type", 9, array_of(5, types));
        if (!scores.empty()) file.value_of("tokenizer.ggml.scores", 9, array_of(6, scores));
        if (model == "gpt2") file.value_of("tokenizer.ggml.merges", 9, array_of(merges));
        if (!character_map.empty()) file.value_of("tokenizer.ggml.precompiled_charsmap", 9, array_of(0, character_map));
        if (!end_ids.empty()) file.value_of("tokenizer.end_token_ids", 9, array_of(5, end_ids));
        if (bos >= 0) file.u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(bos));
        if (eos >= 0) file.u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(eos));
        flag(file, "tokenizer.ggml.add_bos_token", add_bos);
        flag(file, "tokenizer.ggml.add_eos_token", add_eos);
        flag(file, "tokenizer.ggml.add_space_prefix", space_prefix);
        flag(file, "tokenizer.ggml.remove_extra_whitespaces", remove_extra_spaces);
        return file;
    }
    std::string bytes() const { return values().file(0); }

private:
    static void flag(GgufBytes& file, const std::string& key, int value) {
        if (value >= 0) file.value_of(key, 7, std::string(1, static_cast<char>(value)));
    }
};

}  // namespace test
