#include "cpu/kernels/table.h"

namespace dca::cpu {

const Kernels& avx2_kernels() noexcept {
    static constexpr Kernels table = kernels_here("AVX2");
    return table;
}

}  // namespace dca::cpu
