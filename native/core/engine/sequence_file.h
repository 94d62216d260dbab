// A sequence in a file: its tokens and the pages that hold their keys and values (docs/format.md, "Saved sequences").
#pragma once

#include <memory>
#include <string>

#include "core/engine/engine.h"

namespace dca {

/// Writes beside `path` and renames. Throws an I/O error; nothing is left then, and what was at `path` stays.
void save_sequence(const Sequence& sequence, const std::string& path);

/// Throws a format error for a file that is damaged or was written under another model, scheme, RoPE, cache type, prefill
/// mode or layout, a context error where the engine has no room.
std::unique_ptr<Sequence> load_sequence(Engine& engine, const std::string& path);

}  // namespace dca
