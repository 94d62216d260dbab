// Which of the instruction sets that kernels are compiled for this machine has.
#pragma once

namespace dca {

enum class Isa { Generic, Avx2, Avx512 };

/// Avx2 stands for AVX2, FMA, F16C and BMI2; Avx512 for these and AVX-512 F, BW, DQ, VL and VNNI:
/// what native/CMakeLists.txt lets the compiler use.
inline bool machine_has(Isa isa) noexcept {
    switch (isa) {
        case Isa::Generic: return true;
#if defined(__x86_64__)
        case Isa::Avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                   __builtin_cpu_supports("bmi2");
        case Isa::Avx512:
            return machine_has(Isa::Avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#endif
        default: return false;
    }
}

}  // namespace dca
