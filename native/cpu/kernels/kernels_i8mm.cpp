#include "cpu/kernels/table.h"

namespace dca::cpu {

const Kernels& i8mm_kernels() noexcept {
    static constexpr Kernels table = kernels_here("NEON, matrix products");
    return table;
}

}  // namespace dca::cpu
