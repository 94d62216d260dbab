#include "core/blocks/codecs.h"

namespace dca {

BlockKernels block_kernels_avx512(BlockType type) noexcept { return block_kernels_here(type); }

}  // namespace dca
