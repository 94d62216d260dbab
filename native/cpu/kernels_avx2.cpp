#define DCA_KERNELS avx2_kernels
#define DCA_KERNELS_NAME "AVX2"
#include "cpu/kernels.inc"
