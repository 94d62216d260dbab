// Which keys of a tile a quarter of a page's queries reads where single keys and distances are chosen (LineBits).
#pragma once

#include "cuda/attention/page_lists.h"

namespace dca::cuda {

/// Queries [first, first + count) of a quarter of their page, as far as they are among `n` from `begin` on. There are some.
struct QuarterRows {
    uint32_t first, count;

    __device__ __forceinline__ QuarterRows(uint32_t begin, uint32_t n, uint32_t quarter) {
        const uint32_t from = begin / kPageTokens * kPageTokens + quarter * kQuarter, end = begin + n;
        first = begin > from ? begin : from;
        count = (end < from + kQuarter ? end : from + kQuarter) - first;
    }
};

/// Of the keys key ... key + 31, bit by bit, those that `count` queries (1 to kQuarter) from `begin` on read, of which each reads
/// what any of them has at a chosen distance. The pointers are a head's. `key` may be negative, and is not past the queries' page.
__device__ __forceinline__ uint32_t keys_read(const uint32_t* columns, const uint32_t* diagonals, int key, uint32_t begin, uint32_t count) {
    // Key `key` + t is read where one of `count` distances from begin - key - t on is chosen: bits 31 - t and following here.
    const uint32_t nearest = kLineMargin + begin - 31 - key, own = kLineMargin + key;
    const uint32_t* words = diagonals + nearest / 32;
    const uint32_t first = __ldg(words), second = __ldg(words + 1), third = __ldg(words + 2);
    uint64_t bits = static_cast<uint64_t>(__funnelshift_r(second, third, nearest)) << 32 | __funnelshift_r(first, second, nearest);
    uint32_t reach = 1;
    for (; 2 * reach <= count; reach *= 2) bits |= bits >> reach;
    bits |= bits >> (count - reach);
    const uint32_t column = __funnelshift_r(__ldg(columns + own / 32), __ldg(columns + own / 32 + 1), own);
    return __brev(static_cast<uint32_t>(bits)) | column;
}

/// Masks the keys of a tile that a warp's queries, all of one quarter, do not read.
template <int kTileKeys>
struct LineMask {
    uint32_t read;  // word lane % (kTileKeys / 32) of the tile's keys

    /// `first_key` is that of column 0. All lanes come here, and to apply().
    __device__ __forceinline__ LineMask(const LineBits& lines, uint32_t head, int first_key, uint32_t begin, uint32_t count, int lane) {
        const size_t own = static_cast<size_t>(head) * lines.words;
        const int key = first_key + lane % (kTileKeys / 32) * 32;
        read = keys_read(lines.columns + own, lines.diagonals + own, key, begin, count);
    }

    /// s lies as softmax.cuh says.
    template <int kCount>
    __device__ __forceinline__ void apply(float (&s)[kCount], int lane) const {
        static_assert(kCount == kTileKeys / 2);
#pragma unroll
        for (int word = 0; word < kTileKeys / 32; ++word) {
            const uint32_t own = __shfl_sync(~0u, read, word) >> lane % 4 * 2;  // from this thread's first column on
#pragma unroll
            for (int n = 0; n < 16; ++n)
                if ((own >> (n / 4 * 8 + n % 2) & 1) == 0) s[16 * word + n] = -INFINITY;
        }
    }
};

}  // namespace dca::cuda
