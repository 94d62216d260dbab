// Moving tokens to their experts and the results back.
// All functions launch on `stream`, return without waiting and allocate nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/device/launch.h"
#include "cuda/weights/own_experts.h"

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

struct AddWeightedRowArgs {
    const float* results;     // (n_used + 1, width), the shared expert's last; of experts that are elsewhere anything
    const float* weights;     // (n_used + 1)
    const uint32_t* experts;  // (n_used) that the token chose
    OwnExperts own;
    uint32_t n_used, width;
    bool shared;  // whether there is a shared expert
    bool add;     // x += the sum
    float* x;     // (width)
};
/// x = the sum over a token's experts here of their weights times results.
cudaError_t add_weighted_row(const Card& card, const AddWeightedRowArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
