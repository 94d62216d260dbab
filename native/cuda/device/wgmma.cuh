// Hopper's warpgroup matrix products: 64 rows, N columns, 16 deep, f32 accumulators in registers.
//
// Thread t of a warpgroup holds rows 16 (t / 32) + t % 32 / 4 and that + 8. Of each run of 8
// columns j it holds 2 (t % 4) and the next: acc[4 j + 2 half + parity]. (PTX ISA 9.0, 9.7.15)
#pragma once

#include "cuda/device/panels.cuh"
#include "cuda/device/ptx.cuh"

namespace dca::cuda::wgmma {

/// Shared memory matrix descriptor. Strides in bytes: `leading` between panels where the panels
/// run along N (the transposed operand), `stride` between groups of 8 rows.
template <int kHeadDim>
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading) {
    constexpr uint64_t kLayout = Panels<kHeadDim>::kWidth == 64 ? 1 : Panels<kHeadDim>::kWidth == 32 ? 2 : 3;
    constexpr uint64_t kStride = 8 * Panels<kHeadDim>::kRowBytes;
    return kLayout << 62 | (kStride >> 4) << 32 | static_cast<uint64_t>(leading >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

/// The descriptor `bytes` further on.
__device__ __forceinline__ uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving uses of registers across the products that write them.
template <int kCount>
__device__ __forceinline__ void pin(float (&r)[kCount]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) asm volatile("" : "+f"(r[n])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(uint32_t (&r)[kCount]) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) asm volatile("" : "+r"(r[n])::"memory");
}

template <class T>
struct Name;
template <>
struct Name<__half> {
    static constexpr char text[] = "f16";
};
template <>
struct Name<__nv_bfloat16> {
    static constexpr char text[] = "bf16";
};

/// Products by number of columns: acc = A B, or += if `accumulate`, with A (64, 16).
/// `shared`: A in shared memory, B as rows of 16 (its transpose, (N, 16)).
/// `registers`: A in registers; B likewise, or as rows of N where kRowsOfN.
template <int N, class T>
struct Product;

// PTX wants every accumulator spelled out, and no template can write an operand list: these
// macros do nothing else. S and R number the operands behind the accumulators.
#define DCA_EIGHT(i)                                                                                                          \
    "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3]), "+f"(acc[i + 4]), "+f"(acc[i + 5]), "+f"(acc[i + 6]), \
        "+f"(acc[i + 7])
#define DCA_ACC8 DCA_EIGHT(0)
#define DCA_ACC16 DCA_ACC8, DCA_EIGHT(8)
#define DCA_ACC32 DCA_ACC16, DCA_EIGHT(16), DCA_EIGHT(24)
#define DCA_ACC40 DCA_ACC32, DCA_EIGHT(32)
#define DCA_ACC48 DCA_ACC40, DCA_EIGHT(40)
#define DCA_ACC64 DCA_ACC48, DCA_EIGHT(48), DCA_EIGHT(56)
#define DCA_LIST8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define DCA_LIST16 DCA_LIST8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define DCA_LIST32 DCA_LIST16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define DCA_LIST40 DCA_LIST32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define DCA_LIST48 DCA_LIST40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define DCA_LIST64 DCA_LIST48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define DCA_PRODUCT(N, REGISTERS, P0, P1, P2, P3, P4, P5, P6, P7)                                                                   \
    template <class T>                                                                                                              \
    struct Product<N, T> {                                                                                                          \
        static __device__ __forceinline__ void shared(float (&acc)[REGISTERS], uint64_t a, uint64_t b, int accumulate) {            \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P2                                                                     \
                         ", 0;\n"                                                                                                   \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." P3 "." P3 " {" DCA_LIST##REGISTERS "}, " P0 ", " P1      \
                                                                                                              ", p, 1, 1, 0, 0;\n}" \
                         : DCA_ACC##REGISTERS                                                                                       \
                         : "l"(a), "l"(b), "r"(accumulate), "C"(Name<T>::text));                                                    \
        }                                                                                                                           \
        template <bool kRowsOfN>                                                                                                    \
        static __device__ __forceinline__ void registers(float (&acc)[REGISTERS], const uint32_t* a, uint64_t b, int accumulate) {  \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P5                                                                     \
                         ", 0;\n"                                                                                                   \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." P6 "." P6 " {" DCA_LIST##REGISTERS                       \
                         "}, {" P0 "," P1 "," P2 "," P3 "}, " P4 ", p, 1, 1, " P7 ";\n}"                                            \
                         : DCA_ACC##REGISTERS                                                                                       \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "C"(Name<T>::text),                 \
                           "n"(kRowsOfN ? 1 : 0));                                                                                  \
        }                                                                                                                           \
    }

DCA_PRODUCT(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14", "%15");
DCA_PRODUCT(32, 16, "%16", "%17", "%18", "%19", "%20", "%21", "%22", "%23");
DCA_PRODUCT(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38", "%39");
DCA_PRODUCT(80, 40, "%40", "%41", "%42", "%43", "%44", "%45", "%46", "%47");
DCA_PRODUCT(96, 48, "%48", "%49", "%50", "%51", "%52", "%53", "%54", "%55");
DCA_PRODUCT(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70", "%71");

#undef DCA_PRODUCT
#undef DCA_LIST64
#undef DCA_LIST48
#undef DCA_LIST40
#undef DCA_LIST32
#undef DCA_LIST16
#undef DCA_LIST8
#undef DCA_ACC64
#undef DCA_ACC48
#undef DCA_ACC40
#undef DCA_ACC32
#undef DCA_ACC16
#undef DCA_ACC8
#undef DCA_EIGHT

}  // namespace dca::cuda::wgmma
