// Hopper's warpgroup products of bytes: 64 rows, 128 columns, 32 deep, s32 accumulators laid out as wgmma.cuh says.
#pragma once

#include "cuda/device/wgmma.cuh"

namespace dca::cuda::wgmma {

#define DCA_EIGHT(i)                                                                                                          \
    "+r"(acc[i]), "+r"(acc[i + 1]), "+r"(acc[i + 2]), "+r"(acc[i + 3]), "+r"(acc[i + 4]), "+r"(acc[i + 5]), "+r"(acc[i + 6]), \
        "+r"(acc[i + 7])

/// acc += A B: A (64, 32) of signed bytes in registers (four neighbours of a row in each, as 16-bit operands have two), B as rows of
/// 32 unsigned bytes (its transpose, (128, 32)).
__device__ __forceinline__ void add_byte_products(uint32_t (&acc)[64], const uint32_t* a, uint64_t b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.u8 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"
        "%62,%63}, {%64,%65,%66,%67}, %68, p;\n}"
        : DCA_EIGHT(0), DCA_EIGHT(8), DCA_EIGHT(16), DCA_EIGHT(24), DCA_EIGHT(32), DCA_EIGHT(40), DCA_EIGHT(48), DCA_EIGHT(56)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef DCA_EIGHT

}  // namespace dca::cuda::wgmma
