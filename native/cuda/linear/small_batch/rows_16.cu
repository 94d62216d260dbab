#include "cuda/linear/small_batch/launch.cuh"

template cudaError_t dca::cuda::few::launch<2>(const Card&, const SmallBatchArgs&, cudaStream_t);
