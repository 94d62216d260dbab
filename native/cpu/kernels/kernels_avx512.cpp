#include "cpu/kernels/table.h"

namespace dca::cpu {

const Kernels& avx512_kernels() noexcept {
    static constexpr Kernels table = kernels_here("AVX-512");
    return table;
}

}  // namespace dca::cpu
