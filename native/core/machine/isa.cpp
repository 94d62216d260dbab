#include "core/machine/isa.h"

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
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
#elif defined(__aarch64__)
namespace {

#if defined(__APPLE__)
bool has_feature(const char* name) noexcept {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
bool has_dotprod() noexcept { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() noexcept { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
// Bits that Linux sets for them (its arch/arm64 hwcap.h), which older headers do not name.
constexpr unsigned long kDotProd = 1ul << 20;  // HWCAP_ASIMDDP
constexpr unsigned long kI8mm = 1ul << 13;     // HWCAP2_I8MM
bool has_dotprod() noexcept { return (getauxval(AT_HWCAP) & kDotProd) != 0; }
bool has_i8mm() noexcept { return (getauxval(AT_HWCAP2) & kI8mm) != 0; }
#endif

}  // namespace
#endif

std::string_view isa_name(Isa isa) noexcept {
    switch (isa) {
        case Isa::Generic: return "generic";
        case Isa::Avx2: return "avx2";
        case Isa::Avx512: return "avx512";
        case Isa::DotProd: return "dotprod";
        case Isa::I8mm: return "i8mm";
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
#elif defined(__aarch64__)
        case Isa::DotProd: return has_dotprod();
        case Isa::I8mm: return has_dotprod() && has_i8mm();
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
