#define DCA_KERNELS generic_kernels
#define DCA_KERNELS_NAME "portable"
#include "cpu/kernels.inc"
