// The order of experts and the cut of their work; host and device.
//
// A step's tokens times the experts each of them uses are its pairs: pair p is token p / n_used and
// that token's choice p % n_used. Sorted by expert, a place each, they are what the products run over.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "cuda/weights/own_experts.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

DCA_HOST_DEVICE uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(value);
#else
    return std::bit_cast<uint32_t>(value);
#endif
}

DCA_HOST_DEVICE float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    return std::bit_cast<float>(bits);
#endif
}

// An expert's rank is a number that is larger for a higher logit and, among equal logits, for a lower
// index. No two experts of a token share one and none is 0 or the largest number, so that walking down
// the ranks between those meets every expert once, whatever the logits are: even NaN cannot lead to an
// expert that does not exist.

DCA_HOST_DEVICE uint64_t expert_rank(float logit, uint32_t expert) {
    const uint32_t bits = bits_of_float(logit + 0.0f);  // -0 becomes +0: they are equal
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t{ascending} << 32 | ~(expert + 1);
}
DCA_HOST_DEVICE uint32_t expert_of_rank(uint64_t rank) { return ~static_cast<uint32_t>(rank) - 1; }
DCA_HOST_DEVICE float logit_of_rank(uint64_t rank) {
    const auto ascending = static_cast<uint32_t>(rank >> 32);
    return float_of_bits(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}

/// A warp's part of n pairs: [first, end), whole groups of 32 but the last.
struct PairRange {
    uint32_t first, end;
};
DCA_HOST_DEVICE PairRange pairs_of_warp(uint32_t n, uint32_t warp, uint32_t warps) {
    const uint32_t groups = n / 32 + (n % 32 != 0), each = (groups / warps + (groups % warps != 0)) * 32;
    const uint32_t first = warp * each < n ? warp * each : n;
    return {first, n - first < each ? n : first + each};
}

/// How many rows the products of an expert with `tokens` tokens run over: a multiple of an eighth of
/// its highest power of two. That makes few shapes (cuBLASLt picks an algorithm for each, which takes
/// longer than a product) and costs an eighth more work at most.
inline uint32_t padded_tokens(uint32_t tokens) {
    const uint32_t step = std::max(16u, std::bit_floor(tokens) / 8);
    return (tokens + step - 1) / step * step;
}

/// Rows that padded_tokens() may add to at most `tokens`.
inline uint32_t most_padding(uint32_t tokens) { return std::max(16u, tokens / 8); }

/// Consecutive experts whose tokens fit into the work space together.
struct ExpertRun {
    uint32_t first_expert, end_expert;
    uint32_t first_place, end_place;  // of their pairs
};

/// Cuts a card's own experts, of all of which number e has counts[e] pairs, into runs of at most `capacity` pairs;
/// no expert has more than that alone. Runs without pairs are left out.
inline std::vector<ExpertRun> expert_runs(std::span<const uint32_t> counts, const OwnExperts& own, uint32_t capacity) {
    std::vector<ExpertRun> runs;
    const uint32_t before = std::accumulate(counts.begin(), counts.begin() + own.first, 0u);
    ExpertRun run{own.first, own.first, before, before};
    const auto close = [&] {
        if (run.end_place > run.first_place) runs.push_back(run);
    };
    for (uint32_t expert = own.first; expert < own.first + own.count; ++expert) {
        if (run.end_place - run.first_place + counts[expert] > capacity) {
            close();
            run.first_expert = expert;
            run.first_place = run.end_place;
        }
        run.end_expert = expert + 1;
        run.end_place += counts[expert];
    }
    close();
    return runs;
}

}  // namespace dca::cuda
