#define DCA_KERNELS avx512_kernels
#define DCA_KERNELS_NAME "AVX-512"
#include "cpu/kernels.inc"
