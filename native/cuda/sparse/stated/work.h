// What the kernels behind choose_lines.h share: a unit, some of its heads, and where in the work space things lie.
#pragma once

#include <cuda_fp16.h>

#include "core/positions/key_ranges.h"
#include "cuda/sparse/stated/choose_lines.h"

namespace dca::cuda::lines {

constexpr uint32_t kTile = 64;    // queries, and keys, that are multiplied at a time
constexpr uint32_t kSplit = 512;  // keys of a block of threads

/// The choosing queries in tiles, and the keys in splits, of which the first begins at a tile's border.
struct Cut {
    uint32_t first_key, end;   // keys [first_key, end)
    uint32_t choosing, lanes;  // queries that choose; and what fills their tiles
    uint32_t splits;

    Cut(uint32_t first_key_, uint32_t end_, uint32_t choosing_)
        : first_key(first_key_),
          end(end_),
          choosing(choosing_),
          lanes(ceil_div(choosing_, kTile) * kTile),
          splits(ceil_div(end_ - first_key_ / kTile * kTile, kSplit)) {}

    DCA_HOST_DEVICE uint32_t n_keys() const { return end - first_key; }
    DCA_HOST_DEVICE uint32_t tiles_begin() const { return first_key / kTile * kTile; }
    /// The index of the query in a lane; lanes without one repeat the last.
    DCA_HOST_DEVICE uint32_t query(uint32_t lane) const { return end - choosing + (lane < choosing ? lane : choosing - 1); }
};

struct Work {
    LineArgs args;
    Cut cut;
    uint32_t chunk, ranges;
    uint32_t first_head, heads;  // of those at work
    // Of each of these heads, but for the first.
    float2* rotations;  // (ranges, lanes, rotary_dim / 2) cos and sin
    __half* queries;    // (3, lanes, head_dim) rotated for each range, turned where the cache is
    float2* softmax;    // (lanes, splits) largest score, in powers of two, and the sum of what is relative to it
    float2* merged;     // (lanes) the same of all splits, with one over the sum
    float* columns;     // (n_keys) weights, from first_key on
    float* diagonals;   // (n_keys) weights, from the distance 0 on
    float* parts;       // (splits, kSplit + lanes) weights of diagonals: those of a split's keys, lane - key + kSplit - 1 each
};

/// Weights of columns and diagonals.
cudaError_t weigh_lines(const Work& work, cudaStream_t stream);
/// The heaviest of them, as bits.
cudaError_t choose_heaviest(const Work& work, cudaStream_t stream);
/// Lists of pages of all heads.
cudaError_t list_lines(const LineArgs& args, cudaStream_t stream);

}  // namespace dca::cuda::lines
