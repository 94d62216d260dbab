// Descriptions of 3-d tensors of 16-bit values for the copy engine (TMA).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

namespace dca::cuda {

struct TensorMapSpec {
    const void* data;                // 16-byte aligned
    std::array<uint64_t, 3> size;    // elements, the contiguous dimension first
    std::array<uint64_t, 2> stride;  // bytes between elements of dimensions 1 and 2, multiples of 16
    std::array<uint32_t, 3> box;     // elements of one copy, at most 256 each
    uint32_t swizzle_bytes;          // 0, 32, 64 or 128
};

/// Reads past a tensor's end give zeros. cudaErrorNotSupported if the driver has no such call,
/// cudaErrorInvalidValue if it refuses the description.
cudaError_t make_tensor_map(const TensorMapSpec& spec, CUtensorMap& map);

}  // namespace dca::cuda
