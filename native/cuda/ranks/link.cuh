// Accesses that other cards see or make; PTX ISA 9.0, chapter 8 (memory consistency).
#pragma once

#include <cstdint>

#include "cuda/device/launch.h"
#include "cuda/ranks/table.h"

namespace dca::cuda {

constexpr uint32_t kSpinsBetweenLooks = 1024;      // at the host's memory, which is far
constexpr uint64_t kLongestWait = 30'000'000'000;  // nanoseconds for which a rank may keep others waiting

__device__ __forceinline__ void store_release(uint32_t* to, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

/// Two halves of 8 bytes, either of which is seen whole.
__device__ __forceinline__ void store_packet(uint4* to, const uint4& v) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ uint4 load_packet(const uint4* from) {
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}

/// Two words, either of which is seen whole.
__device__ __forceinline__ void store_words(uint2* to, const uint2& v) {
    asm volatile("st.volatile.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

__device__ __forceinline__ uint2 load_words(const uint2* from) {
    uint2 v;
    asm volatile("ld.volatile.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory");
    return v;
}

/// How long a thread waits for another rank.
class Patience {
public:
    explicit __device__ Patience(const RankTable& table) : table_(table) {}

    /// Whether to stop waiting: a rank has failed, or it has been too long. Looks only now and then.
    __device__ __forceinline__ bool ended() {
        if (++spins_ % kSpinsBetweenLooks != 0) return false;
        volatile uint32_t* given_up = table_.given_up;
        if (*given_up != 0) return true;
        uint64_t now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (since_ == 0) since_ = now;
        if (now - since_ < kLongestWait) return false;
        *given_up = kWaitedTooLong;
        return true;
    }

private:
    const RankTable& table_;
    uint32_t spins_ = 0;
    uint64_t since_ = 0;  // nanoseconds
};

/// Returns when a number of at least `number` has come.
__device__ __forceinline__ void await_number(const RankTable& table, const uint32_t* at, uint32_t number) {
    for (Patience patience(table); static_cast<int32_t>(load_acquire(at) - number) < 0 && !patience.ended();) {}
}

/// The packet of that number, once it has come; `packet` is what was there before.
__device__ __forceinline__ uint4 await_packet(const RankTable& table, const uint4* at, uint32_t number, uint4 packet) {
    for (Patience patience(table); (packet.y != number || packet.w != number) && !patience.ended();) packet = load_packet(at);
    return packet;
}

/// Takes words away once they have come; `words` is what was there before.
__device__ __forceinline__ uint2 take_words(const RankTable& table, uint2* at, uint2 words) {
    for (Patience patience(table); (words.x == kNothing || words.y == kNothing) && !patience.ended();) words = load_words(at);
    store_words(at, {kNothing, kNothing});
    return words;
}

/// Returns when what was launched before has ended, with the number of the sum: 1, 2, ... Every sum of a kind has as many blocks,
/// and all of an earlier one have their tickets before a later one may start.
__device__ __forceinline__ uint32_t begin_sum(const RankTable& table, uint64_t* tickets) {
    __shared__ uint32_t number;
    if (threadIdx.x == 0) number = static_cast<uint32_t>(atomicAdd(reinterpret_cast<unsigned long long*>(tickets), 1ull) / gridDim.x) + 1;
    __syncthreads();
    if (!table.one_card) let_next_start();
    await_previous();
    return number;
}

}  // namespace dca::cuda
