#include "core/block_decode.h"
#include "core/block_encode.h"
#include "core/block_kernels.h"

namespace dca {

BlockKernels block_kernels_generic(BlockType type) noexcept { return {decoder(type), encoder(type)}; }

}  // namespace dca
