// Moving tokens to their experts and the results back.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/launch.h"

namespace dca::cuda {

/// Row r of `to` = the token of pair pairs[r], a row of `from`; both of 16-bit values. width is a multiple of 8.
cudaError_t gather_tokens(const void* from, const uint32_t* pairs, uint32_t n_pairs, uint32_t n_used, uint32_t width, void* to,
                          cudaStream_t stream);

struct ScatterArgs {
    const float* results;    // (end_place - first_place, width) of the pairs with these places
    const uint32_t* places;  // (rows, n_used)
    uint32_t first_place, end_place;
    const float* weights;          // (rows, n_used + 1)
    uint32_t rows, n_used, width;  // width is a multiple of 4
    float* x;                      // (rows, width)
};
/// Every token adds up those of its experts' results, weighted, in the order in which it chose them.
cudaError_t scatter_results(const ScatterArgs& args, cudaStream_t stream);

/// x row r += weights[r · stride] · results row r; width is a multiple of 4.
cudaError_t add_weighted(const float* results, const float* weights, uint32_t stride, uint32_t rows, uint32_t width, float* x,
                         cudaStream_t stream);

/// x = the sum over t of weights[t] · results row t, for one token; x += it if `add`.
cudaError_t add_weighted_row(const Card& card, const float* results, const float* weights, uint32_t terms, uint32_t width, bool add,
                             float* x, cudaStream_t stream);

}  // namespace dca::cuda
