#include "core/blocks/codecs.h"

namespace dca {

BlockKernels block_kernels_avx2(BlockType type) noexcept { return block_kernels_here(type); }

}  // namespace dca
