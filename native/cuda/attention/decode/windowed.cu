#include "cuda/attention/decode/launch.cuh"

template cudaError_t dca::cuda::decode::launch_variant<dca::cuda::Variant::Windowed>(const Card&, const DecodeArgs&, cudaStream_t);
