#include "cuda/attention/prefill/sm80_launch.cuh"

template cudaError_t dca::cuda::sm80::launch_variant<dca::cuda::Variant::Capped>(const Card&, const PrefillArgs&, cudaStream_t);
