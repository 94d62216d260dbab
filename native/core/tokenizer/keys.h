// Values of tokenizer.* keys as lists: any integer type serves as an integer, any number as a number.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/gguf/gguf.h"

namespace dca::keys {

inline constexpr std::string_view kModel = "tokenizer.ggml.model";
inline constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
inline constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
inline constexpr std::string_view kScores = "tokenizer.ggml.scores";
inline constexpr std::string_view kMerges = "tokenizer.ggml.merges";
inline constexpr std::string_view kPre = "tokenizer.ggml.pre";
inline constexpr std::string_view kSpacePrefix = "tokenizer.ggml.add_space_prefix";
inline constexpr std::string_view kExtraSpaces = "tokenizer.ggml.remove_extra_whitespaces";
inline constexpr std::string_view kCharacterMap = "tokenizer.ggml.precompiled_charsmap";
inline constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token";
inline constexpr std::string_view kAddEos = "tokenizer.ggml.add_eos_token";
inline constexpr std::string_view kEndIds = "tokenizer.end_token_ids";  // docs/format.md

/// Absent keys give nothing; another kind of value throws a format error that names the key.
std::optional<std::vector<std::string_view>> strings(const GgufFile& file, std::string_view key);
std::optional<std::vector<int64_t>> integers(const GgufFile& file, std::string_view key);
std::optional<std::vector<double>> numbers(const GgufFile& file, std::string_view key);
std::optional<int64_t> integer(const GgufFile& file, std::string_view key);

}  // namespace dca::keys
