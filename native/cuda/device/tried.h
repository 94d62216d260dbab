// What a measurement tries, by the environment.
#pragma once

#include <cstdlib>

namespace dca::cuda {

inline int tried(const char* name, int otherwise) {
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise : std::atoi(value);
}

}  // namespace dca::cuda
