#include "cuda/ranks/sum.h"

#include <type_traits>

#include "cuda/device/launch.h"
#include "cuda/device/vectors.cuh"

namespace dca::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kAtOnce = 4;                     // loads of 16 bytes of a thread that are on their way together
constexpr uint32_t kSpinsBetweenLooks = 1024;  // at the host's memory, which is far

// Accesses that other cards see, PTX ISA 9.0, chapter 8 (memory consistency).

__device__ __forceinline__ void store_release(uint32_t* to, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* from) {
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}

__device__ __forceinline__ void store_packet(uint4* to, const uint4& v) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ uint4 load_packet(const uint4* from) {
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}

__device__ __forceinline__ float2 load_own_pair(const float* from) { return __ldcg(reinterpret_cast<const float2*>(from)); }

/// Whether to stop waiting; asks the host now and then.
__device__ __forceinline__ bool given_up(const RankTable& table, uint32_t& spins) {
    return ++spins % kSpinsBetweenLooks == 0 && *static_cast<const volatile uint32_t*>(table.given_up) != 0;
}

/// Returns when what was launched before has ended, with the number of the sum: 1, 2, ... All blocks of an earlier sum have
/// their tickets before a later one may start.
__device__ __forceinline__ uint32_t begin_sum(const RankTable& table) {
    __shared__ uint32_t number;
    if (threadIdx.x == 0) {
        auto* tickets = reinterpret_cast<unsigned long long*>(table.of[table.rank].tickets);
        number = static_cast<uint32_t>(atomicAdd(tickets, 1ull) / kSumBlocks) + 1;
    }
    __syncthreads();
    if (!table.one_card) let_next_start();
    await_previous();
    return number;
}

/// 16 bytes of partial values.
template <class T>
struct Values {
    static constexpr int kCount = 16 / sizeof(T);
    T v[kCount];

    __device__ static Values load(const T* from) {
        Values values;
        uint32_t (&w)[4] = reinterpret_cast<uint32_t (&)[4]>(values);
        asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(from));
        return values;
    }
    __device__ float at(int i) const {
        const float value = to_float(v[i]);
        if constexpr (!std::is_same_v<T, __half>) return value;
        constexpr float most = 65504.0f;
        return value > most ? most : value < -most ? -most : value;  // NaN stays
    }
};

/// Few values: every rank sends its own to all others, each with the sum's number, which tells the receiver that it has
/// arrived. One way across the link instead of a signal and a reading.
__global__ void __launch_bounds__(kThreads) push_kernel(const __grid_constant__ RankTable table, const SumArgs args) {
    const RankMemory& own = table.of[table.rank];
    const uint32_t epoch = begin_sum(table);
    const uint64_t pairs = args.n / 2, stride = uint64_t{gridDim.x} * kThreads, begin = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
    const float* partial = reinterpret_cast<const float*>(own.partial[static_cast<uint32_t>(args.partial)]) + args.first;
    const auto slot = [&](uint32_t of, uint32_t from, uint64_t pair) {
        return table.of[of].pushed + (uint64_t{epoch % 2} * table.ranks + from) * (kPushedValues / 2) + pair;
    };
    for (uint64_t i = begin; i < pairs; i += stride) {
        const float2 v = load_own_pair(partial + 2 * i);
        const uint4 packet{__float_as_uint(v.x), epoch, __float_as_uint(v.y), epoch};
        for (uint32_t r = 0; r < table.ranks; ++r) {
            if (r != table.rank) store_packet(slot(r, table.rank, i), packet);
        }
    }
    for (uint64_t i = begin; i < pairs; i += stride) {
        float2* x = reinterpret_cast<float2*>(args.x) + i;
        float2 total = __ldcg(x);
        for (uint32_t r = 0; r < table.ranks; ++r) {
            if (r == table.rank) {
                const float2 v = load_own_pair(partial + 2 * i);
                total = {total.x + v.x, total.y + v.y};
                continue;
            }
            const uint4* at = slot(table.rank, r, i);
            uint4 packet = load_packet(at);
            for (uint32_t spins = 0; (packet.y != epoch || packet.w != epoch) && !given_up(table, spins);) packet = load_packet(at);
            total = {total.x + __uint_as_float(packet.x), total.y + __uint_as_float(packet.z)};
        }
        *x = total;
    }
}

/// Many values: the ranks tell each other that theirs are there, and each reads all.
template <class T>
__global__ void __launch_bounds__(kThreads) pull_kernel(const __grid_constant__ RankTable table, const SumArgs args) {
    const RankMemory& own = table.of[table.rank];
    const uint32_t epoch = begin_sum(table);
    if (threadIdx.x < table.ranks && threadIdx.x != table.rank) {
        store_release(table.of[threadIdx.x].arrived + table.rank * kSumBlocks + blockIdx.x, epoch);
        const uint32_t* other = own.arrived + threadIdx.x * kSumBlocks + blockIdx.x;
        for (uint32_t spins = 0; static_cast<int32_t>(load_acquire(other) - epoch) < 0 && !given_up(table, spins);) {}
    }
    __syncthreads();
    using Piece = Values<T>;
    const uint64_t pieces = args.n / Piece::kCount, stride = uint64_t{gridDim.x} * kThreads;
    const uint32_t buffer = static_cast<uint32_t>(args.partial);
    for (uint64_t begin = uint64_t{blockIdx.x} * kThreads + threadIdx.x; begin < pieces; begin += kAtOnce * stride) {
        // x comes first: its loads are under way with those that cross the link.
        float total[kAtOnce][Piece::kCount];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const uint64_t i = begin + k * stride;
#pragma unroll
            for (int n = 0; n < Piece::kCount; n += 4) {
                const float4 x = i < pieces ? load_four(args.x + i * Piece::kCount + n) : float4{};
                total[k][n] = x.x, total[k][n + 1] = x.y, total[k][n + 2] = x.z, total[k][n + 3] = x.w;
            }
        }
        for (uint32_t r = 0; r < table.ranks; ++r) {
            const T* partial = reinterpret_cast<const T*>(table.of[r].partial[buffer]) + args.first;
            Piece piece[kAtOnce];
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) {
                const uint64_t i = begin + k * stride;
                if (i < pieces) piece[k] = Piece::load(partial + i * Piece::kCount);
            }
#pragma unroll
            for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
                for (int n = 0; n < Piece::kCount; ++n) total[k][n] += piece[k].at(n);
            }
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const uint64_t i = begin + k * stride;
            if (i >= pieces) break;
#pragma unroll
            for (int n = 0; n < Piece::kCount; n += 4) {
                *reinterpret_cast<float4*>(args.x + i * Piece::kCount + n) = {total[k][n], total[k][n + 1], total[k][n + 2],
                                                                              total[k][n + 3]};
            }
        }
    }
}

size_t pushed_bytes(uint32_t ranks) { return size_t{2} * ranks * (kPushedValues / 2) * sizeof(uint4); }
size_t arrived_bytes(uint32_t ranks) { return size_t{ranks} * kSumBlocks * sizeof(uint32_t); }

}  // namespace

size_t RankMemory::signal_bytes(uint32_t ranks) { return pushed_bytes(ranks) + arrived_bytes(ranks) + sizeof(uint64_t); }

void RankMemory::place_signals(void* memory, uint32_t ranks) {
    auto* at = static_cast<std::byte*>(memory);
    pushed = reinterpret_cast<uint4*>(at);
    arrived = reinterpret_cast<uint32_t*>(at + pushed_bytes(ranks));
    tickets = reinterpret_cast<uint64_t*>(arrived + size_t{ranks} * kSumBlocks);
}

cudaError_t sum_ranks(const Card& card, const RankTable& table, const SumArgs& args, bool overlapped, cudaStream_t stream) {
    if (args.n == 0 || args.n % 8 != 0 || args.first % 8 != 0) return cudaErrorInvalidValue;
    const bool few = args.type == VectorType::F32 && args.n <= kPushedValues && table.ranks > 1;
    auto kernel = few ? push_kernel : pull_kernel<float>;
    if (args.type == VectorType::F16) kernel = pull_kernel<__half>;
    if (args.type == VectorType::BF16) kernel = pull_kernel<__nv_bfloat16>;
    const dim3 grid(kSumBlocks);
    if (overlapped) return launch_overlapped(card, kernel, grid, kThreads, 0, stream, table, args);
    kernel<<<grid, kThreads, 0, stream>>>(table, args);
    return cudaGetLastError();
}

}  // namespace dca::cuda
