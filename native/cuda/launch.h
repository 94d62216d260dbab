// Launching a kernel so that it may start before its predecessor has ended (programmatic launch).
#pragma once

#include <cuda_runtime.h>

namespace dca::cuda {

/// What launches need to know about the card.
struct Card {
    int compute_capability = 0;  // 10 major + minor
    int multiprocessors = 0;
    size_t shared_bytes = 0;     // that a block can have
};

/// The kernel must call await_previous() before it touches anything an earlier kernel writes or reads.
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapped(const Card& card, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                              cudaStream_t stream, const Arguments&... arguments) {
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = card.compute_capability >= 90 ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace dca::cuda
