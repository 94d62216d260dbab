#include "core/machine/isa.h"

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/error.h"

namespace dca {

#if defined(__x86_64__)
namespace {

/// clang's __builtin_cpu_supports does not know it.
bool has_f16c() noexcept {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

}  // namespace
#endif

std::string_view isa_name(Isa isa) noexcept {
    switch (isa) {
        case Isa::Generic: return "generic";
        case Isa::Avx2: return "avx2";
        case Isa::Avx512: return "avx512";
    }
    return {};
}

bool machine_has(Isa isa) noexcept {
    switch (isa) {
        case Isa::Generic: return true;
#if defined(__x86_64__)
        case Isa::Avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() && __builtin_cpu_supports("bmi2");
        case Isa::Avx512:
            return machine_has(Isa::Avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#endif
        default: return false;
    }
}

Isa choose_isa(std::string_view wanted) {
    Isa fastest = Isa::Generic;
    std::string here;
    for (const Isa isa : kAllIsas) {
        if (!machine_has(isa)) continue;
        if (isa_name(isa) == wanted) return isa;
        here.append(here.empty() ? "" : ", ").append(isa_name(isa));
        fastest = isa;
    }
    if (!wanted.empty()) fail(DCA_ERROR_ARGUMENT, "DCA_ISA is ", wanted, ", this machine runs ", here, "; unset it for the fastest");
    return fastest;
}

Isa chosen_isa() {
    static const Isa isa = [] {
        const char* wanted = std::getenv("DCA_ISA");
        return choose_isa(wanted == nullptr ? "" : wanted);
    }();
    return isa;
}

}  // namespace dca
