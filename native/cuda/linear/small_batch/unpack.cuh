// Weights from a stage in shared memory to operands of mma: what a lane holds of a row, unpacked in registers.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/device/halves.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/linear/small_batch/layout.h"

namespace dca::cuda::few {

/// Four bytes as f16 1024 + byte, in order.
__device__ __forceinline__ void bytes_to_halves(uint32_t bytes, __half2& low, __half2& high) {
    const uint32_t pairs[2] = {__byte_perm(bytes, 0x64646464u, 0x4140), __byte_perm(bytes, 0x64646464u, 0x4342)};
    low = reinterpret_cast<const __half2&>(pairs[0]);
    high = reinterpret_cast<const __half2&>(pairs[1]);
}

/// Four upper bytes of f16 as those f16, in order.
__device__ __forceinline__ void upper_bytes_to_halves(uint32_t bytes, __half2& low, __half2& high) {
    const uint32_t pairs[2] = {__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424)};
    low = reinterpret_cast<const __half2&>(pairs[0]);
    high = reinterpret_cast<const __half2&>(pairs[1]);
}

/// Two f16 as two T in one register.
template <class T>
__device__ __forceinline__ uint32_t pack_halves(__half2 pair) {
    if constexpr (std::is_same_v<T, __half>) {
        return reinterpret_cast<const uint32_t&>(pair);
    } else {
        const float2 values = __half22float2(pair);
        return pack<T>(values.x, values.y);
    }
}

/// What a lane holds of a row beside the low plane: of each of its units.
template <class F>
struct Extras {
    static constexpr uint32_t kUnits = Step<F>::kLaneUnits == 0 ? 1 : Step<F>::kLaneUnits;
    static constexpr uint32_t kHighWords = F::kHighBytes == 0 ? 1 : F::kHighBytes / 4;
    static constexpr uint32_t kHalves = F::kScaleBytes == 0 ? 1 : F::kScaleBytes / 2;
    uint32_t high[kUnits][kHighWords];
    uint16_t scales[kUnits][kHalves];

    template <uint32_t kBytes, class To>
    __device__ __forceinline__ static void load(To& to, uint32_t at) {
        static_assert(sizeof(To) == kBytes);
        struct alignas(kBytes) Bits {
            uint8_t bytes[kBytes];
        };
        const Bits bits = ptx::load_shared<Bits>(at);
        memcpy(&to, &bits, kBytes);
    }

    /// `high_at`, `scales_at`: the row's, for lane % 4 = t.
    __device__ __forceinline__ void load_from(uint32_t high_at, uint32_t scales_at, uint32_t t) {
        if constexpr (F::kHighBytes > 0) load<kUnits * F::kHighBytes>(high, high_at + t * kUnits * F::kHighBytes);
        if constexpr (F::kScaleBytes > 0) load<kUnits * F::kScaleBytes>(scales, scales_at + t * kUnits * F::kScaleBytes);
    }
};

/// Eight e of the weights in a lane's chunk of 16 bytes as four pairs of T; `u` says which of its units they are in.
template <class F, class T>
__device__ __forceinline__ void unpack_eight(const Words& low, const Extras<F>& extras, int e, int u, uint32_t (&out)[4]) {
    if constexpr (!F::kQuantised) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = low.w[i];
    } else {
        using P = typename F::Planes;
        const int nibble = e / 2, first = 2 * (e % 2);  // where a unit's eight e is in four-bit planes
        constexpr int kOffset = P::kLowBits == 8 || P::kTable ? 128 : P::kOffset;
        const int group = P::kGroups == 2 ? nibble : 0;
        const uint16_t* scales = extras.scales[u];
        const __half2 one = __half2half2(__float2half_rn(group_scale<P>(scales, group)));  // nothing to round but in products
        const __half2 zero = __half2half2(__ushort_as_half(0x6400 + kOffset));             // 1024 + kOffset
        uint32_t levels[2];
        if constexpr (P::kLevels == Levels::FP4) look_up<UpperHalves>(low.w[e], levels);
        if constexpr (P::kLevels == Levels::IQ4) look_up<LevelWords<P::kLevels, 128>>(low.w[e], levels);
#pragma unroll
        for (int word = 0; word < 2; ++word) {
            uint32_t bytes;
            if constexpr (P::kTable) {
                bytes = levels[word];
            } else if constexpr (P::kLowBits == 8) {
                bytes = low.w[2 * e + word] ^ 0x80808080u;  // signed to 128 + value
            } else {
                bytes = nibble_bytes<P>(low.w[first + word], extras.high[u], first + word, nibble);
            }
            __half2 pairs[2];
            if constexpr (P::kLevels == Levels::FP4) {
                upper_bytes_to_halves(bytes, pairs[0], pairs[1]);
            } else {
                bytes_to_halves(bytes, pairs[0], pairs[1]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const __half2 q = P::kLevels == Levels::FP4 ? pairs[i] : __hsub2(pairs[i], zero);  // exact
                if constexpr (P::kMinimum) {
                    out[2 * word + i] = pack_halves<T>(__hfma2(q, one, __half2half2(__ushort_as_half(scales[2 * group + 1]))));
                } else {
                    out[2 * word + i] = pack_halves<T>(__hmul2(q, one));
                }
            }
        }
    }
}

}  // namespace dca::cuda::few
