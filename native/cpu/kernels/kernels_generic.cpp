#include "cpu/kernels/table.h"

namespace dca::cpu {

const Kernels& generic_kernels() noexcept {
    static constexpr Kernels table = kernels_here("portable");
    return table;
}

}  // namespace dca::cpu
