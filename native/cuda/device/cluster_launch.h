// Launching a kernel in clusters of blocks, which reach each other's shared memory (Hopper), and before its predecessor has
// ended (launch.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/device/card.h"

namespace dca::cuda {

struct ClusterLaunch {
    const void* kernel;
    uint32_t threads;
    size_t shared_bytes;  // that the kernel has been allowed

    /// How many clusters of `size` blocks, one above the other in the grid, run at a time on the current card; 0: none.
    /// The first answer of each kind is kept.
    uint32_t most(uint32_t size) const;

    template <class... Parameters, class... Arguments>
    cudaError_t launch(const Card& card, void (*typed_kernel)(Parameters...), dim3 grid, uint32_t size, cudaStream_t stream,
                       const Arguments&... arguments) const {
        cudaLaunchAttribute attributes[2]{};
        attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[0].val.programmaticStreamSerializationAllowed = 1;
        attributes[1].id = cudaLaunchAttributeClusterDimension;
        attributes[1].val.clusterDim.x = 1;
        attributes[1].val.clusterDim.y = size;
        attributes[1].val.clusterDim.z = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        config.attrs = attributes;
        config.numAttrs = card.compute_capability >= 90 ? size > 1 ? 2 : 1 : 0;
        return cudaLaunchKernelEx(&config, typed_kernel, arguments...);
    }
};

}  // namespace dca::cuda
