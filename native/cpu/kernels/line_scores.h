// What stated budgets are chosen by: keys as floats, and what columns and diagonals of the softmax weigh.
//
// Internal linkage on purpose: each cpu/kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/cache_kinds.h"
#include "cpu/kernels/exp2.h"

namespace dca::cpu {
namespace {

template <class Cache>
void load_keys(const CacheView& cache, uint32_t block, int blocks, int head_dim, float* keys) {
    AttendPanelArgs args{};
    args.cache = cache;
    args.head_dim = head_dim;
    load_key_blocks<Cache>(args, block, blocks, keys);
}

template <class Cache>
void gather_rows(const CacheView& cache, const uint32_t* places, int count, int head_dim, float* keys, float* values) {
    KeyReader<Cache> reader(cache, head_dim);
    for (int t = 0; t < count; ++t) {
        const auto lane = static_cast<int>(places[t] % kPanelLanes);
        const int vector = lane / kVectorWidth * kVectorWidth;
        reader.enter(places[t] - static_cast<uint32_t>(lane));
        float* key = keys + static_cast<size_t>(t / kPanelLanes) * kPanelLanes * head_dim + t % kPanelLanes;
        for (int d = 0; d < head_dim; ++d) key[d * kPanelLanes] = reader.at(d, vector)[lane - vector];
        const ValueReader<Cache, 1> value(cache, head_dim, places[t], 1);
        for (int d = 0; d < head_dim; d += kVectorWidth) store(values + static_cast<size_t>(t) * head_dim + d, value.at(0, d));
    }
}

void fold_lines(const float* scores, int rows, const float* top, const float* inverse, float* columns, float* diagonals) {
    for (int row = 0; row < rows; ++row, scores += kPanelLanes, ++columns, --diagonals) {
        F sum{};
        for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
            const F score = (load(scores + lane) - load(top + lane)) * splat(kLog2E);
            const F weight = exp2_of(score) * load(inverse + lane);
            sum += weight;
            store(diagonals + lane, load(diagonals + lane) + weight);
        }
        *columns += sum_of(sum);
    }
}

}  // namespace
}  // namespace dca::cpu
