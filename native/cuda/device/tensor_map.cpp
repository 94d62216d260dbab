#include "cuda/device/tensor_map.h"

namespace dca::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// Found through the runtime, so that nothing links against the driver's library.
EncodeTiled find_encode_tiled() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(function) : nullptr;
}

CUtensorMapSwizzle swizzle_of(uint32_t bytes) {
    switch (bytes) {
        case 32: return CU_TENSOR_MAP_SWIZZLE_32B;
        case 64: return CU_TENSOR_MAP_SWIZZLE_64B;
        case 128: return CU_TENSOR_MAP_SWIZZLE_128B;
        default: return CU_TENSOR_MAP_SWIZZLE_NONE;
    }
}

}  // namespace

cudaError_t make_tensor_map(const TensorMapSpec& spec, CUtensorMap& map) {
    static const EncodeTiled encode = find_encode_tiled();
    if (!encode) return cudaErrorNotSupported;
    constexpr std::array<uint32_t, 3> every_element = {1, 1, 1};
    // Bits are copied, not interpreted: bf16 travels under the name of f16.
    const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, const_cast<void*>(spec.data), spec.size.data(),
                                   spec.stride.data(), spec.box.data(), every_element.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                                   swizzle_of(spec.swizzle_bytes), CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace dca::cuda
