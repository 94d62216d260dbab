#include "cpu/kernels/table.h"

namespace dca::cpu {

const Kernels& dotprod_kernels() noexcept {
    static constexpr Kernels table = kernels_here("NEON, dot products");
    return table;
}

}  // namespace dca::cpu
