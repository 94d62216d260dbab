// The rows of a step that are kept, moved to the front.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace dca::cuda {

struct RowsInMemory {
    void* memory;
    size_t bytes;   // of a row that move, a multiple of 16
    size_t stride;  // bytes between rows, likewise
};

/// Row i becomes row kept[i], of both; kept (n_rows) ascends, in device memory. Launches on `stream`.
cudaError_t compact_rows(const uint32_t* kept, uint32_t n_rows, const RowsInMemory& first, const RowsInMemory& second, cudaStream_t stream);

}  // namespace dca::cuda
