// What blocks of threads find that share a block of queries, each for a part of its keys, and how it becomes the result.
#pragma once

#include <cuda_runtime_api.h>

#include "core/positions/key_ranges.h"
#include "cuda/attention/work_order.h"
#include "cuda/device/halves.cuh"
#include "cuda/device/ptx.cuh"

namespace dca::cuda {

/// In the workspace; item n of a call is part first + n % own of the order's item n / own.
struct Parts {
    uint32_t count = 1;           // of a block of queries
    uint32_t first = 0, own = 1;  // those of the call
    float* out = nullptr;         // (the order's items, count, rows of a block, head_dim), undivided
    float2* softmax = nullptr;    // (the order's items, count, rows of a block): maximum, sum

    /// Where an item's part lies.
    DCA_HOST_DEVICE size_t place(uint32_t item) const { return size_t{item / own} * count + first + item % own; }
};

/// Where results go: as of PrefillArgs.
struct MergedRows {
    void* out;
    int64_t stride;
    uint32_t start;  // index of the first query
    Dtype dtype;
    float scale_log2;
};

/// A warp a row: blockIdx.x counts blocks of queries in the order, blockIdx.y warps of rows.
template <int kHeadDim, int kRows, int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    merge_parts(const Parts parts, const WorkOrder order, const QueryBlocks blocks, const MergedRows to) {
    const WorkOrder::Item work = order.at(blockIdx.x);
    const QueryBlock block = blocks.at(work.block);
    const uint32_t row = blockIdx.y * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= block.rows) return;
    const size_t first = size_t{blockIdx.x} * parts.count * kRows + row;
    float maximum = parts.softmax[first].x;
    for (uint32_t part = 1; part < parts.count; ++part) maximum = fmaxf(maximum, parts.softmax[first + part * kRows].x);
    float sum = 0.0f;
    for (uint32_t part = 0; part < parts.count; ++part) {
        const float2 own = parts.softmax[first + part * kRows];
        sum += own.y * ptx::exp2((own.x - maximum) * to.scale_log2);
    }
    uint8_t* row_out = static_cast<uint8_t*>(to.out) + 2 * ((block.first - to.start + row) * to.stride + size_t{work.head} * kHeadDim);
    for (uint32_t e = 2 * lane; e < kHeadDim; e += 64) {
        float2 merged = {};
        for (uint32_t part = 0; part < parts.count; ++part) {
            const size_t at = first + part * kRows;
            const float weight = ptx::exp2((parts.softmax[at].x - maximum) * to.scale_log2);
            const float2 v = *reinterpret_cast<const float2*>(parts.out + at * kHeadDim + e);
            merged.x += weight * v.x, merged.y += weight * v.y;
        }
        *reinterpret_cast<uint32_t*>(row_out + 2 * e) = pack(merged.x / sum, merged.y / sum, to.dtype);
    }
}

}  // namespace dca::cuda
