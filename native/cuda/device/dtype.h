// The 16-bit floats that activations come in.
#pragma once

#include <cstdint>

namespace dca::cuda {

enum class Dtype : int32_t { F16 = 0, BF16 = 1 };

}  // namespace dca::cuda
