// Which kernels this machine runs.
#include <array>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "core/isa.h"
#include "cpu/kernels.h"

namespace dca::cpu {

namespace {

struct Choice {
    std::string_view name;
    Isa isa;
    const Kernels* (*kernels)() noexcept;
};

constexpr std::array choices{
#if defined(__x86_64__)
    Choice{"avx512", Isa::Avx512, avx512_kernels},
    Choice{"avx2", Isa::Avx2, avx2_kernels},
#endif
    Choice{"generic", Isa::Generic, generic_kernels},
};

}  // namespace

const Kernels& cpu_kernels() {
    const char* wanted = std::getenv("DCA_ISA");
    const bool any = wanted == nullptr || *wanted == '\0';
    for (const Choice& choice : choices) {
        if ((any || choice.name == wanted) && machine_has(choice.isa)) return *choice.kernels();
    }
    fail(DCA_ERROR_ARGUMENT, "DCA_ISA is ", wanted, ", must be generic, avx2 or avx512 and known to this machine");
}

}  // namespace dca::cpu
