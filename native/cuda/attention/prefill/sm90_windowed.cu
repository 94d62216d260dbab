#include "cuda/attention/prefill/sm90_launch.cuh"

template cudaError_t dca::cuda::sm90::launch_variant<dca::cuda::Variant::Windowed>(const Card&, const PrefillArgs&, cudaStream_t);
