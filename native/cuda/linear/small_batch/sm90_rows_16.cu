#include "cuda/linear/small_batch/sm90_launch.cuh"

template cudaError_t dca::cuda::few::sm90::launch<16>(const Card&, const SmallBatchArgs&, cudaStream_t);
