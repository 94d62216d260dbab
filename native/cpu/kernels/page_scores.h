// What sparse prefill chooses pages by: their mean keys, and how heavy each is to a block of queries.
//
// Internal linkage on purpose: each kernels_*.cpp compiles its own copy for its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blocks/simd.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/cache_kinds.h"
#include "cpu/kernels/exp2.h"
#include "cpu/kernels/matmul.h"

namespace dca::cpu {
namespace {

template <class Cache>
void mean_keys(const CacheView& cache, KeyRange span, int head_dim, float* mean) {
    KeyReader<Cache> keys(cache, head_dim);
    for (int d = 0; d < head_dim; ++d) mean[d] = 0.0f;
    for (uint32_t block = span.begin / kPanelLanes * kPanelLanes; block < span.end; block += kPanelLanes) {
        alignas(64) float inside[kPanelLanes];
        for (uint32_t lane = 0; lane < kPanelLanes; ++lane)
            inside[lane] = block + lane >= span.begin && block + lane < span.end ? 1.0f : 0.0f;
        keys.enter(block);
        for (int d = 0; d < head_dim; ++d) {
            F sum{};
            // What lies outside may be another's NaN: it is left out, not multiplied by 0.
            for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) sum += load(inside + lane) == F{} ? F{} : keys.at(d, lane);
            mean[d] += sum_of(sum);
        }
    }
    for (int d = 0; d < head_dim; ++d) mean[d] /= static_cast<float>(span.end - span.begin);
}

void score_means(const float* means, int rows, const float* q, int head_dim, float* scores) {
    for (int row = 0; row < rows; row += kPanelLanes, means += size_t{kPanelLanes} * head_dim, scores += kPanelLanes * kPanelLanes) {
        const int count = rows - row < kPanelLanes ? rows - row : kPanelLanes;
        multiply_rows<1, kPanelLanes>(means, count, q, head_dim, scores, false);
    }
}

void weigh_pages(float* scores, int rows, int first, int last, float* weights) {
    alignas(64) float counted[kPanelLanes];
    for (int lane = 0; lane < kPanelLanes; ++lane) counted[lane] = lane >= first && lane < last ? 1.0f : 0.0f;
    for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) {
        F top = splat(kMinusInfinity);
        for (int row = 0; row < rows; ++row) top = maximum(top, load(scores + row * kPanelLanes + lane));
        for (int row = 0; row < rows; ++row) {
            float* at = scores + row * kPanelLanes + lane;
            const F inside = load(counted + lane);
            store(at, inside == F{} ? F{} : exp2_of(load(at) - top));
        }
    }
    for (int row = 0; row < rows; ++row) {
        F sum{};
        for (int lane = 0; lane < kPanelLanes; lane += kVectorWidth) sum += load(scores + row * kPanelLanes + lane);
        weights[row] = sum_of(sum);
    }
}

}  // namespace
}  // namespace dca::cpu
