// How decode attention (decode.cuh) cuts the keys of its rows into pieces of work, on the device: only there are the
// lengths known.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/attention.h"

namespace dca::cuda::decode {

struct Params {
    DecodeArgs args;
    float scale_log2;
    uint32_t groups;          // of up to kHeads query heads that share a key head
    uint32_t pairs;           // (key head, group) of a row
    uint32_t most_splits;     // of a row's keys
    uint32_t least_keys;      // of a split, so that short contexts need no merge
    uint32_t part_heads;      // of a group, at most
    float* partial_out;       // (rows, pairs, most_splits, part_heads, head_dim)
    float2* partial_softmax;  // (rows, pairs, most_splits, part_heads): maximum, sum
    uint32_t* tickets;        // (rows, pairs)
};

/// What a block of threads does at a time: tiles [begin, end) of a row's keys for the query heads of one pair.
struct Split {
    uint32_t row, pair;
    uint32_t index, splits;  // among those of the row and pair
    uint32_t begin, end;
};

/// Tiles of a split of a row that has `tiles`: splits are as equal as they can be, by the row's own length.
template <class C>
__device__ __forceinline__ uint32_t tiles_per_split(const Params& params, uint32_t tiles) {
    const uint32_t splits = ceil_div(tiles, max(ceil_div(tiles, params.most_splits), params.least_keys / C::kKeys));
    return ceil_div(tiles, splits);
}

__device__ __forceinline__ uint32_t length_of(const DecodeArgs& args, uint32_t row) {
    return min(args.rows[row].length, args.cache.pages * kPageTokens);
}

/// Counts the splits of the rows, the same of every pair: first_split (n_rows + 1), in shared memory, becomes how many
/// there are before each row.
template <class C>
__device__ __forceinline__ void count_splits(uint32_t* first_split, const Params& params) {
    const DecodeArgs& args = params.args;
    for (uint32_t row = threadIdx.x; row < args.n_rows; row += C::kThreads) {
        const uint32_t length = length_of(args, row);
        uint32_t splits = 0;
        if (length > 0) {
            const uint32_t tiles = KeyTiles<C::kKeys>(args.scheme, length).count;
            splits = ceil_div(tiles, tiles_per_split<C>(params, tiles));
        }
        first_split[row + 1] = splits;
    }
    if (threadIdx.x == 0) first_split[0] = 0;
    __syncthreads();
    if (args.n_rows == 1) return;  // nothing to add up
    if (threadIdx.x < 32) {
        uint32_t before = 0;
        for (uint32_t first = 0; first < args.n_rows; first += 32) {
            const uint32_t row = first + threadIdx.x;
            uint32_t sum = row < args.n_rows ? first_split[row + 1] : 0;
            for (uint32_t step = 1; step < 32; step *= 2) {
                const uint32_t other = __shfl_up_sync(~0u, sum, step);
                if (threadIdx.x >= step) sum += other;
            }
            sum += before;
            if (row < args.n_rows) first_split[row + 1] = sum;
            before = __shfl_sync(~0u, sum, 31);
        }
    }
    __syncthreads();
}

/// The split numbered `index` of all. Those of one pair follow each other, so that rows which share pages read them
/// at the same time, from the L2 cache.
template <class C>
__device__ __forceinline__ Split find_split(const uint32_t* first_split, const Params& params, uint32_t index) {
    const uint32_t of_pair = first_split[params.args.n_rows], within = index % of_pair;
    uint32_t row = 0, past = params.args.n_rows;  // the row is in [row, past)
    while (past - row > 1) {
        const uint32_t middle = (row + past) / 2;
        if (first_split[middle] <= within)
            row = middle;
        else
            past = middle;
    }
    const uint32_t first = first_split[row];
    Split split{row, index / of_pair, within - first, first_split[row + 1] - first, 0, 0};
    const uint32_t tiles = KeyTiles<C::kKeys>(params.args.scheme, length_of(params.args, row)).count;
    const uint32_t each = tiles_per_split<C>(params, tiles);
    split.begin = split.index * each;
    split.end = min(split.begin + each, tiles);
    return split;
}

/// The query heads of a pair.
struct HeadGroup {
    int first, count;

    template <class C>
    static __device__ __forceinline__ HeadGroup of(const Params& params, uint32_t pair) {
        const int group = params.args.shape.n_heads / params.args.shape.n_kv_heads;
        const int within = pair % params.groups * C::kHeads;
        return {static_cast<int>(pair / params.groups) * group + within, min(C::kHeads, group - within)};
    }
};

}  // namespace dca::cuda::decode
