// Functions that the CPU and a CUDA card share.
#pragma once

#if defined(__CUDACC__)
#define DCA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DCA_HOST_DEVICE inline
#endif
