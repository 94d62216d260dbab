#include "core/blocks/kernels.h"

namespace dca {

BlockKernels block_kernels(BlockType type, [[maybe_unused]] Isa isa) noexcept {
#if defined(__x86_64__)
    if (isa == Isa::Avx512) return block_kernels_avx512(type);
    if (isa == Isa::Avx2) return block_kernels_avx2(type);
#endif
    return block_kernels_generic(type);
}

BlockKernels block_kernels(BlockType type) { return block_kernels(type, chosen_isa()); }

}  // namespace dca
