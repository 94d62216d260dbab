// How decode attention (decode.cuh) cuts the keys of its rows into pieces of work, on the device: only there are the
// lengths known.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/attention/attention.h"
#include "cuda/attention/variants.h"

namespace dca::cuda::decode {

struct Params {
    DecodeArgs args;
    LogitScale scale;
    uint32_t groups;          // of up to kHeads query heads that share a key head
    uint32_t pairs;           // (key head, group) of a row
    uint32_t most_shared;     // parts of a row's shared keys; they come before the others; 0 without groups of rows
    uint32_t most_splits;     // of the other keys of such a row
    uint32_t most_parts;      // both together, and splits of any other row
    uint32_t least_keys;      // of a split, so that short contexts need no merge
    uint32_t fewest_splits;   // of a row's own keys, if least_keys allows: with as many, rows of one length fill the card
    uint32_t part_heads;      // of a group, at most
    float* partial_out;       // (rows, pairs, most_parts, part_heads, head_dim)
    float2* partial_softmax;  // (rows, pairs, most_parts, part_heads): maximum, sum
    uint32_t* tickets;        // (rows, pairs)

    /// Where a part of a row and pair is in both.
    __device__ __forceinline__ size_t part(uint32_t row, uint32_t pair, uint32_t part, uint32_t head) const {
        return ((size_t{row} * pairs + pair) * most_parts + part) * part_heads + head;
    }
};

/// What a block of threads does at a time: some tiles of the keys of an item, a row or a group of rows, for the query heads of
/// one pair.
struct Split {
    uint32_t item, pair;
    uint32_t index, splits;  // among those of the item and pair
    uint32_t begin, end;     // tiles
};

/// A field of a row, past the first-level cache: one row's is written by a kernel of the step.
__device__ __forceinline__ uint32_t of_row(const uint32_t& field) { return __ldcg(&field); }

__device__ __forceinline__ uint32_t length_of(const DecodeArgs& args, uint32_t row) {
    return min(of_row(args.rows[row].length), args.cache.pages * kPageTokens);
}

/// Parts that the keys of `shared` tokens are cut into, whole pages each.
struct SharedParts {
    static constexpr uint32_t kLeastPages = 4;  // of a part: one of fewer costs more to begin and to merge than it spreads
    uint32_t pages, each, count;

    __device__ __forceinline__ SharedParts(const Params& params, uint32_t shared) : pages(shared / kPageTokens), each(1), count(0) {
        if (pages == 0) return;
        each = ceil_div(pages, min(params.most_shared, ceil_div(pages, kLeastPages)));
        count = ceil_div(pages, each);
    }
};

/// Items that are rows: the keys that no group reads for them, which are most rows' only ones.
template <class C>
struct OwnKeys {
    static __device__ __forceinline__ uint32_t count(const DecodeArgs& args) { return args.n_rows; }
    static __device__ __forceinline__ uint32_t row(const DecodeArgs&, uint32_t item) { return item; }

    /// Tokens of the row that its group reads.
    static __device__ __forceinline__ uint32_t shared(const DecodeArgs& args, uint32_t row) {
        return args.n_groups == 0 ? 0 : of_row(args.rows[row].shared);
    }

    /// Splits are as equal as they can be, by the row's own length.
    static __device__ __forceinline__ uint32_t splits(const Params& params, uint32_t row) {
        const uint32_t length = length_of(params.args, row);
        if (length == 0) return 0;
        const Tiles tiles(params, row, length);
        return ceil_div(tiles.count, tiles.each);
    }

    static __device__ __forceinline__ void cut(const Params& params, Split& split) {
        const Tiles tiles(params, split.item, length_of(params.args, split.item));
        split.begin = tiles.first + split.index * tiles.each;
        split.end = min(split.begin + tiles.each, tiles.first + tiles.count);
    }

private:
    // Of a split, where a row may be cut into more: a row that is much longer than the others must not be left alone on few
    // multiprocessors. A little more than 8192, so that what is decoded behind a prompt of that length is not cut off.
    static constexpr uint32_t kMostKeys = 66 * kPageTokens;

    struct Tiles {
        uint32_t first, count, each;  // of a split

        __device__ __forceinline__ Tiles(const Params& params, uint32_t row, uint32_t length) {
            const typename C::Tiles all(params.args.scheme, length, params.args.traits.window);
            const uint32_t others = shared(params.args, row);
            first = others == 0 ? 0 : all.before(others);
            count = all.count - first;
            const uint32_t most = others == 0 ? params.most_parts : params.most_splits;
            const uint32_t wanted = min(most, max(params.fewest_splits, ceil_div(count, kMostKeys / C::kKeys)));
            const uint32_t splits = ceil_div(count, max(ceil_div(count, wanted), params.least_keys / C::kKeys));
            each = ceil_div(count, splits);
        }
    };
};

/// Items that are groups of rows: the keys that all of a group's rows have. Their tiles are the first ones of any of its rows.
template <class C>
struct SharedKeys {
    static __device__ __forceinline__ uint32_t count(const DecodeArgs& args) { return args.n_groups; }
    static __device__ __forceinline__ uint32_t row(const DecodeArgs& args, uint32_t item) { return args.groups[item].row[0]; }

    static __device__ __forceinline__ uint32_t splits(const Params& params, uint32_t item) {
        const DecodeGroup& group = params.args.groups[item];
        return group.rows == 0 ? 0 : SharedParts(params, group.shared).count;
    }

    static __device__ __forceinline__ void cut(const Params& params, Split& split) {
        const DecodeArgs& args = params.args;
        const SharedParts parts(params, args.groups[split.item].shared);
        const typename C::Tiles tiles(args.scheme, length_of(args, row(args, split.item)));
        const uint32_t first = split.index * parts.each;
        split.begin = tiles.before(first * kPageTokens);
        split.end = tiles.before(min(first + parts.each, parts.pages) * kPageTokens);
    }
};

/// Counts the splits of the items, the same of every pair: first_split (items + 1), in shared memory, becomes how many
/// there are before each item.
template <class C, class Items>
__device__ __forceinline__ void count_splits(uint32_t* first_split, const Params& params) {
    const uint32_t items = Items::count(params.args);
    for (uint32_t item = threadIdx.x; item < items; item += C::kThreads) first_split[item + 1] = Items::splits(params, item);
    if (threadIdx.x == 0) first_split[0] = 0;
    __syncthreads();
    if (items == 1) return;  // nothing to add up
    if (threadIdx.x < 32) {
        uint32_t before = 0;
        for (uint32_t first = 0; first < items; first += 32) {
            const uint32_t item = first + threadIdx.x;
            uint32_t sum = item < items ? first_split[item + 1] : 0;
            for (uint32_t step = 1; step < 32; step *= 2) {
                const uint32_t other = __shfl_up_sync(~0u, sum, step);
                if (threadIdx.x >= step) sum += other;
            }
            sum += before;
            if (item < items) first_split[item + 1] = sum;
            before = __shfl_sync(~0u, sum, 31);
        }
    }
    __syncthreads();
}

/// The split numbered `index` of all. Those of one pair follow each other, so that items which share pages read them
/// at the same time, from the L2 cache.
template <class C, class Items>
__device__ __forceinline__ Split find_split(const uint32_t* first_split, const Params& params, uint32_t index) {
    const uint32_t of_pair = first_split[Items::count(params.args)], within = index % of_pair;
    uint32_t item = 0, past = Items::count(params.args);  // the item is in [item, past)
    while (past - item > 1) {
        const uint32_t middle = (item + past) / 2;
        if (first_split[middle] <= within)
            item = middle;
        else
            past = middle;
    }
    const uint32_t first = first_split[item];
    Split split{item, index / of_pair, within - first, first_split[item + 1] - first, 0, 0};
    Items::cut(params, split);
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
