// What a fuzz target is, beside LLVMFuzzerTestOneInput: a name, and inputs that reach far into it.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace fuzz {

using Input = std::vector<uint8_t>;
using Random = std::mt19937_64;

// Every target defines these.
extern const char* const target_name;
std::vector<Input> seeds();
Input random_input(Random& random);

/// Random bytes, `least` to `most` of them.
inline Input random_bytes(Random& random, size_t least, size_t most) {
    Input input(least + random() % (most - least + 1));
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    return input;
}

}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
