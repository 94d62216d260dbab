// The heaviest columns and diagonals: a block of threads for each head and kind, which finds the least weight that is still
// chosen digit by digit, then goes over all in order and sets the bits.
#include "cuda/sparse/stated/work.h"

namespace dca::cuda::lines {
namespace {

constexpr uint32_t kThreads = 1024, kWarps = kThreads / 32;
constexpr uint32_t kDigits = 256;

/// Weights of one head and kind in the order in which they are chosen.
struct Line {
    const float* weights;  // (count)
    uint32_t count, forced;

    /// Larger is chosen first, of equals the earlier. What is no number weighs nothing.
    __device__ __forceinline__ uint32_t rank(uint32_t i) const {
        if (i < forced) return ~0u;
        const float weight = weights[i];
        return weight > 0.0f ? __float_as_uint(weight) : 0;
    }
};

struct Least {
    uint32_t rank;   // above it all are chosen
    uint32_t equal;  // and so many of it
};

/// What the `budget`th of them ranks; there are more.
__device__ Least find_least(const Line& line, uint32_t budget, uint32_t (&digits)[kDigits], Least& found) {
    uint32_t prefix = 0, left = budget;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const uint32_t known = shift == 24 ? 0 : ~0u << (shift + 8);
        for (uint32_t n = threadIdx.x; n < kDigits; n += kThreads) digits[n] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < line.count; i += kThreads) {
            const uint32_t rank = line.rank(i);
            if ((rank & known) == prefix) atomicAdd(&digits[rank >> shift & (kDigits - 1)], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = kDigits - 1;
            while (digits[digit] < left) left -= digits[digit--];
            found = {prefix | digit << shift, left};
        }
        __syncthreads();
        prefix = found.rank, left = found.equal;
    }
    return {prefix, left};
}

/// blockIdx.x: which head, blockIdx.y: columns or diagonals. Sets the first `n_words` words of the head.
__global__ void __launch_bounds__(kThreads) heaviest_kernel(const Work work, uint32_t n_words) {
    __shared__ uint32_t digits[kDigits], equals[2][kWarps];
    __shared__ Least found;
    const LineArgs& args = work.args;
    const Cut& cut = work.cut;
    const uint32_t head = work.first_head + blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool columns = blockIdx.y == 0;
    const uint32_t n_keys = cut.n_keys();
    const uint32_t forced = columns ? kSinkColumns - min(kSinkColumns, cut.first_key) : kLocalDiagonals;
    const Line line{(columns ? work.columns : work.diagonals) + size_t{blockIdx.x} * n_keys, n_keys, forced};
    const uint32_t budget = columns ? args.budgets[head].columns : args.budgets[head].diagonals;
    const uint32_t first_bit = kLineMargin + (columns ? cut.first_key : 0);
    uint32_t* bits = (columns ? args.columns : args.diagonals) + size_t{head} * args.words;

    const bool all = budget >= n_keys;
    Least least{~0u, 0};
    if (!all && budget > 0) least = find_least(line, budget, digits, found);
    uint32_t before = 0;  // of those that rank as the least
    for (uint32_t round = 0; round * kWarps < n_words; ++round) {
        const uint32_t word = round * kWarps + warp, i = word * 32 + lane - first_bit;  // wraps before the first
        const bool there = i < n_keys;
        const uint32_t rank = there && !all ? line.rank(i) : 0;
        const bool equal = there && !all && rank == least.rank;
        const uint32_t which = __ballot_sync(~0u, equal);
        if (lane == 0) equals[round % 2][warp] = __popc(which);
        __syncthreads();
        uint32_t mine = before + __popc(which & ((1u << lane) - 1));
        for (uint32_t n = 0; n < kWarps; ++n) {
            const uint32_t of_warp = equals[round % 2][n];
            if (n < warp) mine += of_warp;
            before += of_warp;
        }
        const bool chosen = there && (all || rank > least.rank || (equal && mine < least.equal));
        const uint32_t set = __ballot_sync(~0u, chosen);
        if (lane == 0 && word < n_words) bits[word] = set;
    }
}

}  // namespace

cudaError_t choose_heaviest(const Work& work, cudaStream_t stream) {
    heaviest_kernel<<<dim3(work.heads, 2), kThreads, 0, stream>>>(work, line_words(work.cut.end));
    return cudaGetLastError();
}

}  // namespace dca::cuda::lines
