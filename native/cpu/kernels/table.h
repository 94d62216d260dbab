// The table of all kernels, compiled for the including translation unit's instruction set.
#pragma once

#include "cpu/kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/dot.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/matmul.h"
#include "cpu/kernels/page_scores.h"

#if defined(__AVX512VNNI__)
#include "cpu/kernels/attention_int16.h"
#include "cpu/kernels/packed_multiply.h"
#endif

namespace dca::cpu {
namespace {

constexpr Kernels kernels_here(const char* name) {
    return {
        .name = name,
        .gemm = gemm,
        .dot_rows = dot_rows,
        .rms_norm = rms_norm,
        .silu_multiply = silu_multiply,
        .add = add,
        .rotate = rotate,
        .store_keys = {store_keys<CacheF16>, store_keys<CacheF32>, store_keys<CacheBF16>, store_keys<CacheQ8>, store_keys<CacheQ4>},
        .store_values = {store_values<CacheF16>, store_values<CacheF32>, store_values<CacheBF16>, store_values<CacheQ8>,
                         store_values<CacheQ4>},
#if defined(__AVX512VNNI__)
        .attend_panel = {attend_panel_int16<CacheF16>, attend_panel<CacheF32>, attend_panel_int16<CacheBF16>, attend_panel_int16<CacheQ8>,
                         attend_panel_int16<CacheQ4>},
#else
        .attend_panel = {attend_panel<CacheF16>, attend_panel<CacheF32>, attend_panel<CacheBF16>, attend_panel<CacheQ8>,
                         attend_panel<CacheQ4>},
#endif
        .attend_row = {attend_row<CacheF16>, attend_row<CacheF32>, attend_row<CacheBF16>, attend_row<CacheQ8>, attend_row<CacheQ4>},
        .hadamard = hadamard,
        .mean_keys = {mean_keys<CacheF16>, mean_keys<CacheF32>, mean_keys<CacheBF16>, mean_keys<CacheQ8>, mean_keys<CacheQ4>},
        .score_means = score_means,
        .weigh_pages = weigh_pages,
        .fold_exp_sum = fold_exp_sum,
#if defined(__AVX512VNNI__)
        .packed = &packed_kernels,
#else
        .packed = nullptr,
#endif
    };
}

}  // namespace
}  // namespace dca::cpu
