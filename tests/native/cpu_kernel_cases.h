// What tests of the CPU's kernels share: every table of this machine, and made-up numbers for it.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/machine/isa.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kv_cache.h"

namespace dca::cpu {

inline std::vector<const Kernels*> tables() {
    std::vector<const Kernels*> all;
    for (const dca::Isa isa : dca::kAllIsas) {
        if (dca::machine_has(isa)) all.push_back(&cpu_kernels(isa));
    }
    return all;
}

inline std::vector<float> random_values(size_t count, uint32_t seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(engine);
    return values;
}

inline bool close(double found, double expected, double tolerance) {
    return std::fabs(found - expected) <= tolerance * (1.0 + std::fabs(expected));
}

/// One layer and key head that holds these keys and values (keys × head_dim), stored by `kernels`.
inline CpuKvCache filled_cache(const Kernels& kernels, dca_cache_type type, int head_dim, const std::vector<float>& k,
                               const std::vector<float>& v) {
    const auto keys = static_cast<uint32_t>(k.size() / head_dim);
    CpuKvCache cache(1, 1, head_dim, keys, type);
    const auto t = static_cast<size_t>(cache.type());
    for (uint32_t j = 0; j < keys; ++j) {
        kernels.store_keys[t](k.data() + size_t{j} * head_dim, head_dim, 1, 1, cache.keys(0, 0), cache.key_affine(0, 0), j, nullptr,
                              cache.view(0, 0).centres);
        kernels.store_values[t](v.data() + size_t{j} * head_dim, head_dim, 1, 1, cache.values(0, 0), cache.value_affine(0, 0), j, nullptr);
    }
    return cache;
}

}  // namespace dca::cpu
