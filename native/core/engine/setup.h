// What keys and values depend on beside the tokens: what is saved under one setup is of use under an equal one only.
#pragma once

#include <string>
#include <vector>

#include "core/engine/engine.h"

namespace dca {

/// A line each for model, attention, RoPE, prefill, layout and page size.
std::vector<std::string> setup_lines(Engine& engine);

/// The same lines, each ended by a line break.
std::string setup_text(Engine& engine);

}  // namespace dca
