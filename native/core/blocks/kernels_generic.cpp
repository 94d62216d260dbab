#include "core/blocks/codecs.h"
#include "core/blocks/encode/weighted.h"

namespace dca {

BlockKernels block_kernels_generic(BlockType type) noexcept {
    BlockKernels kernels = block_kernels_here(type);
    kernels.encode_weighted = weighted_encoder(type);
    return kernels;
}

}  // namespace dca
