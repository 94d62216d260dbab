// Which kernels this machine runs.
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "cpu/kernels.h"

namespace dca::cpu {

namespace {

bool machine_has(std::string_view isa) noexcept {
#if defined(__x86_64__)
    if (isa == "avx512") {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && machine_has("avx2");
    }
    // f16c came with the same generation of processors as these.
    if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
    return isa == "generic";
}

const Kernels* kernels_of(std::string_view isa) noexcept {
#if defined(__x86_64__)
    if (isa == "avx512") return avx512_kernels();
    if (isa == "avx2") return avx2_kernels();
#endif
    return isa == "generic" ? generic_kernels() : nullptr;
}

}  // namespace

const Kernels& cpu_kernels() {
    if (const char* wanted = std::getenv("DCA_ISA"); wanted != nullptr && *wanted != '\0') {
        const Kernels* kernels = kernels_of(wanted);
        if (kernels == nullptr || !machine_has(wanted)) {
            fail(DCA_ERROR_ARGUMENT, "DCA_ISA is ", wanted, ", must be generic, avx2 or avx512 and known to this machine");
        }
        return *kernels;
    }
    for (const char* isa : {"avx512", "avx2"}) {
        if (machine_has(isa)) return *kernels_of(isa);
    }
    return *generic_kernels();
}

}  // namespace dca::cpu
