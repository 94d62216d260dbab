#include "cpu/kernels/kernels.h"

namespace dca::cpu {

const Kernels& cpu_kernels(Isa isa) noexcept {
#if defined(__x86_64__)
    if (isa == Isa::Avx512) return avx512_kernels();
    if (isa == Isa::Avx2) return avx2_kernels();
#elif defined(__aarch64__)
    if (isa == Isa::I8mm) return i8mm_kernels();
    if (isa == Isa::DotProd) return dotprod_kernels();
#endif
    static_cast<void>(isa);
    return generic_kernels();
}

}  // namespace dca::cpu
