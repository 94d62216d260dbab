// Sums have a fixed order, so that a row's choice does not depend on when or beside whom it is made; where they differ
// from the host's in the last bits, a token exactly at top_p's border may fall on its other side.
#include "core/positions/host_device.h"
#include "core/backend/sampling.h"
#include "cuda/device/allow_shared.h"
#include "cuda/device/launch.h"
#include "cuda/sampling/choose.h"

namespace dca::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 4;
constexpr int kDigits = 1 << kDigitBits;
constexpr uint32_t kNone = ~0u;
constexpr float kLargestGumbel = 16.64f;  // -log(-log(u)) of the largest u that uniform_of gives
constexpr float kLowest = -3.402823466e38f;

__device__ float never() { return __int_as_float(0xff800000); }

/// Numbers in the order of floats; -0 and +0 are one.
__device__ uint32_t key_of(float value) {
    const uint32_t bits = __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float value_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

struct Shared {
    float columns[kDigits][kThreads];  // a sum for each digit and thread
    double sums[kWarps];
    uint64_t best[kWarps];
    ChooseRow row;
};

/// A value and a token as one number, larger for a larger value and, among equal ones, for a lower token.
__device__ uint64_t rank_of(float value, uint32_t token) { return uint64_t{key_of(value)} << 32 | ~token; }

__device__ uint64_t block_maximum(uint64_t value, Shared& shared) {
    for (int step = 16; step > 0; step /= 2) {
        const uint64_t other = __shfl_xor_sync(~0u, value, step);
        value = other > value ? other : value;
    }
    __syncthreads();  // the last reduction has been read
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = value;
    __syncthreads();
    for (const uint64_t other : shared.best) value = other > value ? other : value;
    return value;
}

__device__ double block_total(double value, Shared& shared) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0.0;
    for (const double other : shared.sums) total += other;
    return total;
}

/// Logits 4 i and the three behind it, those beyond the last anything. From the second-level cache: the kernel before may have
/// written them after this one had started. The rows of odd vocabularies begin anywhere.
__device__ __forceinline__ float4 load_four(const float* logits, uint32_t n, uint32_t i) {
    if (n % 4 == 0) return __ldcg(reinterpret_cast<const float4*>(logits) + i);
    const auto one = [&](uint32_t token) { return token < n ? __ldcg(logits + token) : 0.0f; };
    return {one(4 * i), one(4 * i + 1), one(4 * i + 2), one(4 * i + 3)};
}

/// Calls visit(token, logit) for this thread's tokens in ascending order, the same whatever the row; it may change that logit.
/// Several loads are under way at once.
template <class Visit>
__device__ __forceinline__ void each_token(const float* logits, uint32_t n, Visit&& visit) {
    constexpr int kAtOnce = 4;
    const uint32_t fours = (n + 3) / 4;
    for (uint32_t first = threadIdx.x; first < fours; first += kAtOnce * kThreads) {
        float4 values[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) values[k] = first + k * kThreads < fours ? load_four(logits, n, first + k * kThreads) : float4{};
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
            const float own[4] = {values[k].x, values[k].y, values[k].z, values[k].w};
#pragma unroll
            for (uint32_t c = 0; c < 4; ++c) {
                const uint32_t token = 4 * (first + k * kThreads) + c;
                if (token < n) visit(token, own[c]);
            }
        }
    }
}

/// The largest key K for which the tokens with keys of at least K weigh `target` together, or, with `share`, that part
/// of the weight of all; only tokens with keys of at least `floor` count. Four bits of K at a time.
template <class Weight>
__device__ uint32_t find_key(const float* logits, uint32_t n, uint32_t floor, double target, bool share, Weight&& weight, Shared& shared) {
    uint32_t prefix = 0;
    double above = 0.0;
    for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
        __syncthreads();
        for (int digit = 0; digit < kDigits; ++digit) shared.columns[digit][threadIdx.x] = 0.0f;
        each_token(logits, n, [&](uint32_t, float logit) {
            const uint32_t key = key_of(logit);
            if (key < floor || static_cast<uint32_t>(uint64_t{key} >> (shift + kDigitBits)) != prefix) return;
            shared.columns[key >> shift & (kDigits - 1)][threadIdx.x] += weight(logit);
        });
        __syncthreads();
        // Two warps a digit.
        const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        double sum = 0.0;
        for (int i = 0; i < kThreads / 64; ++i) sum += shared.columns[warp / 2][warp % 2 * (kThreads / 2) + 32 * i + lane];
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0) shared.sums[warp] = sum;
        __syncthreads();
        if (share) {
            double total = 0.0;
            for (const double part : shared.sums) total += part;
            target *= total;
            share = false;
        }
        uint32_t chosen = 0;
        double before = above;
        for (int digit = kDigits - 1; digit >= 0; --digit) {
            const double here = shared.sums[2 * digit] + shared.sums[2 * digit + 1];
            if (!(here > 0.0)) continue;
            chosen = digit;
            before = above;
            above += here;
            if (above >= target) break;
        }
        above = before;
        prefix = prefix << kDigitBits | chosen;
    }
    return prefix;
}

/// The logarithm of the sum of exp(logits), as log_sum() in core/backend/sampling.cpp.
__device__ double log_sum(const float* logits, uint32_t n, Shared& shared) {
    float top = never();
    each_token(logits, n, [&](uint32_t, float logit) { top = logit > top ? logit : top; });
    top = value_of(static_cast<uint32_t>(block_maximum(rank_of(top, 0), shared) >> 32));
    if (isinf(top)) return top;
    float sum = 0.0f;
    each_token(logits, n, [&](uint32_t, float logit) {
        if (logit > never()) sum += expf(logit - top);
    });
    return top + log(block_total(sum, shared));
}

/// Calls change(entry) for every entry, those of one token in their order, and one thread's.
template <class Change>
__device__ void each_entry(TokenValue* entries, uint32_t n, float* logits, Change&& change) {
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) {
        if (i > 0 && entries[i - 1].token == entries[i].token) continue;
        float logit = logits[entries[i].token];
        for (uint32_t j = i; j < n && entries[j].token == entries[i].token; ++j) {
            entries[j].own = logit;
            logit = change(logit, entries[j].value);
        }
        logits[entries[i].token] = logit;
    }
    __syncthreads();
}

__device__ void adjust(const ChooseRow& row, float* logits) {
    if (row.n_occurring == 0 && row.n_biases == 0) return;
    __syncthreads();
    each_entry(row.occurring, row.n_occurring, logits, [&](float logit, float count) {
        const float scaled = logit > 0.0f ? logit / row.repeat_penalty : logit * row.repeat_penalty;
        return __fsub_rn(scaled, __fadd_rn(row.presence_penalty, __fmul_rn(row.frequency_penalty, count)));
    });
    each_entry(row.biases, row.n_biases, logits, [](float logit, float bias) { return logit + bias; });
}

/// The model's own logit of a token, which adjust() may have changed; `unchanged` if it did not.
__device__ float own_logit(const ChooseRow& row, int32_t token, float unchanged) {
    for (uint32_t i = 0; i < row.n_occurring; ++i)
        if (row.occurring[i].token == token) return row.occurring[i].own;
    for (uint32_t i = 0; i < row.n_biases; ++i)
        if (row.biases[i].token == token) return row.biases[i].own;
    return unchanged;
}

/// The lowest logit that the filters keep.
__device__ float threshold(const ChooseRow& row, const float* logits, uint32_t n, float top, Shared& shared) {
    float lowest = fmaxf(kLowest, __fadd_rn(top, row.log_min_p));
    uint32_t floor = key_of(never()) + 1;  // what is not allowed stays out
    if (row.top_k != 0 && row.top_k < n) {
        const uint32_t last = find_key(logits, n, 0, row.top_k, false, [](float) { return 1.0f; }, shared);
        lowest = fmaxf(lowest, value_of(last));
        floor = last > floor ? last : floor;
    }
    if (row.top_p >= 1.0f) return lowest;
    const uint32_t last = find_key(logits, n, floor, row.top_p, true, [&](float logit) { return expf(logit - top); }, shared);
    return fmaxf(lowest, value_of(last));
}

/// argmax(logit / temperature + g) over what the filters keep.
__device__ uint32_t draw(const ChooseRow& row, const float* logits, uint32_t n, float top, uint32_t likeliest, Shared& shared) {
    const float lowest = threshold(row, logits, n, top, shared);
    const auto value = [&](float logit, uint32_t token) {
        return (logit - top) / row.temperature - logf(-logf(uniform_of(row.seed, row.position, token)));
    };
    uint32_t chosen = likeliest;
    float best = value(top, likeliest);
    each_token(logits, n, [&](uint32_t token, float logit) {
        if (!(logit >= lowest) || (logit - top) / row.temperature + kLargestGumbel < best) return;
        const float here = value(logit, token);
        if (here > best || (here == best && token < chosen)) {
            chosen = token;
            best = here;
        }
    });
    return ~static_cast<uint32_t>(block_maximum(rank_of(best, chosen), shared));
}

__global__ void __launch_bounds__(kThreads) choose_kernel(float* all_logits, uint32_t n, const ChooseRow* rows, Chosen* chosen) {
    extern __shared__ __align__(16) uint8_t memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    // By one warp, as it may come from the host; the kernel before does not write it.
    constexpr uint32_t kWords = sizeof(ChooseRow) / sizeof(uint32_t);
    static_assert(kWords <= 32);
    if (threadIdx.x < kWords)
        reinterpret_cast<uint32_t*>(&shared.row)[threadIdx.x] = reinterpret_cast<const uint32_t*>(rows + blockIdx.x)[threadIdx.x];
    __syncthreads();
    const ChooseRow& row = shared.row;
    await_previous();
    float* logits = all_logits + uint64_t{blockIdx.x} * n;

    const double total = row.wants_logprob ? log_sum(logits, n, shared) : 0.0;
    adjust(row, logits);

    // The likeliest; what may not be chosen becomes minus infinity on the way.
    float top = never();
    uint32_t likeliest = kNone;
    each_token(logits, n, [&](uint32_t token, float logit) {
        if (isnan(logit) || (row.allowed != nullptr && (row.allowed[token / 32] >> token % 32 & 1) == 0)) {
            logits[token] = logit = never();
        }
        if (logit > top) {
            top = logit;
            likeliest = token;
        }
    });
    const uint64_t best = block_maximum(rank_of(top, likeliest), shared);
    likeliest = ~static_cast<uint32_t>(best);
    top = likeliest == kNone ? never() : logits[likeliest];
    const bool endless = top == -never();
    if (endless) {  // those that are infinite are equally likely
        __syncthreads();
        each_token(logits, n, [&](uint32_t token, float logit) { logits[token] = logit == -never() ? 0.0f : never(); });
        __syncthreads();
        top = 0.0f;
    }

    uint32_t token = likeliest;
    if (row.temperature > 0.0f && top > never()) token = draw(row, logits, n, top, likeliest, shared);
    if (threadIdx.x != 0) return;
    Chosen answer{static_cast<int32_t>(token), 0.0f};
    if (row.wants_logprob) {
        const float own = token == kNone ? never() : own_logit(row, answer.token, endless ? -never() : logits[answer.token]);
        answer.logprob = token == kNone ? never()
                         : isinf(total) ? (own == total && total > 0.0 ? 0.0f : never())
                                        : static_cast<float>(own - total);
    }
    chosen[blockIdx.x] = answer;
}

}  // namespace

cudaError_t choose_tokens(const Card& card, float* logits, uint32_t n_vocab, const ChooseRow* rows, uint32_t n_rows, Chosen* chosen,
                          cudaStream_t stream) {
    if (const cudaError_t status = allow_shared_bytes(choose_kernel, sizeof(Shared)); status != cudaSuccess) return status;
    return launch_overlapped(card, choose_kernel, dim3(n_rows), kThreads, sizeof(Shared), stream, logits, n_vocab, rows, chosen);
}

}  // namespace dca::cuda
