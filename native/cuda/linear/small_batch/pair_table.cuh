// What a byte of two codes stands for, looked up in shared memory: two f16 for each of 256 bytes, in a copy for every lane, so that
// lanes never meet in a bank. One instruction takes a byte out of a word and makes its address, another reads both values as they
// are multiplied. Permutations of bytes (levels.h) give the same in three times as many instructions, which a product of few rows
// has no time for: on an H200, 28672 x 4096 in IQ4_XS, 16 rows took 35.0 us this way and 41.9 that way (by wgmma).
#pragma once

#include "cuda/device/ptx.cuh"
#include "cuda/linear/small_batch/layout.h"
#include "cuda/linear/small_batch/unpack.cuh"

namespace dca::cuda::few {

/// Eight weights in F of a row, for kN rows of x at a time. Without a table they are unpacked from their words, also where more
/// rows need the memory for stages.
template <class F, int kN>
struct PairTable {
    static constexpr uint32_t kBytes = 0;
    __device__ __forceinline__ static void fill(uint32_t, uint32_t, uint32_t) {}
    __device__ __forceinline__ void look_up(uint32_t, uint32_t) {}
    template <class T>
    __device__ __forceinline__ void unpack(const Words& low, const Extras<F>& extras, int e, int u, uint32_t (&out)[4]) const {
        unpack_eight<F, T>(low, extras, e, u, out);
    }
};

template <class P, int kN>
    requires(P::kTable && kN <= 32)
struct PairTable<Quantised<P>, kN> {
    static constexpr uint32_t kLaneBytes = 4, kCodeBytes = 32 * kLaneBytes, kBytes = 256 * kCodeBytes;
    uint32_t pairs[4];

    /// By `threads` threads, of which this is number `thread`; seen after a barrier.
    __device__ __forceinline__ static void fill(uint32_t table, uint32_t thread, uint32_t threads) {
        for (uint32_t at = 16 * thread; at < kBytes; at += 16 * threads) {
            const uint32_t codes = at / kCodeBytes;
            const __half2 both = __halves2half2(level(codes & 15), level(codes >> 4));
            const uint32_t bits = reinterpret_cast<const uint32_t&>(both);
            ptx::store_shared(table + at, uint4{bits, bits, bits, bits});
        }
    }

    /// What a word of codes stands for; `own`: the lane's copy of the table.
    __device__ __forceinline__ void look_up(uint32_t codes, uint32_t own) {
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = ptx::load_shared<uint32_t>(__dp4a(codes, kCodeBytes << 8 * i, own));
    }

    /// As unpack_eight, to the bit, of the word that was looked up.
    template <class T>
    __device__ __forceinline__ void unpack(const Words&, const Extras<Quantised<P>>& extras, int, int u, uint32_t (&out)[4]) const {
        const __half2 scale = __half2half2(__float2half_rn(group_scale<P>(extras.scales[u], 0)));
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = pack_halves<T>(__hmul2(reinterpret_cast<const __half2&>(pairs[i]), scale));
    }

private:
    __device__ __forceinline__ static __half level(uint32_t code) {
        using Levels = LevelWords<P::kLevels, 0>;
        const uint32_t word = code < 8 ? code < 4 ? Levels::k0 : Levels::k1 : code < 12 ? Levels::k2 : Levels::k3;
        return __short2half_rn(static_cast<int8_t>(word >> 8 * (code % 4)));
    }
};

}  // namespace dca::cuda::few
