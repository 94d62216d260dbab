// The table of all kernels, compiled for the including translation unit's instruction set.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/dot.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/line_scores.h"
#include "cpu/kernels/matmul.h"
#include "cpu/kernels/page_scores.h"

#if defined(__AVX512VNNI__)
#include "cpu/kernels/attention_int16.h"
#include "cpu/kernels/packed_multiply.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "cpu/kernels/packed_bytes.h"
#endif

namespace dca::cpu {
namespace {

/// attend_panel over a cache that is rounded anyway.
template <class Cache, bool Capped>
void narrow_panel(const AttendPanelArgs& args) {
#if defined(__AVX512VNNI__)
    attend_panel_int16<Cache, Capped>(args);
#else
    attend_panel<Cache, Capped>(args);
#endif
}

constexpr Kernels kernels_here(const char* name) {
    return {
        .name = name,
        .gemm = gemm,
        .dot_rows = dot_rows,
        .dot_tokens = dot_tokens,
        .rms_norm = rms_norm,
        .layer_norm = layer_norm,
        .gate_multiply = {gate_multiply<Silu>, gate_multiply<Gelu>, gate_multiply<ClampedSwiglu>},
        .add_scaled = add_scaled,
        .scale_and_cap = scale_and_cap,
        .rotate = rotate,
        .store_keys = {store_keys<CacheF16>, store_keys<CacheF32>, store_keys<CacheBF16>, store_keys<CacheQ8>, store_keys<CacheQ4>},
        .store_values = {store_values<CacheF16>, store_values<CacheF32>, store_values<CacheBF16>, store_values<CacheQ8>,
                         store_values<CacheQ4>},
        .settle_keys = settle_keys,
        .attend_panel = {narrow_panel<CacheF16, false>, attend_panel<CacheF32, false>, narrow_panel<CacheBF16, false>,
                         narrow_panel<CacheQ8, false>, narrow_panel<CacheQ4, false>},
        .attend_row = {attend_row<CacheF16, false>, attend_row<CacheF32, false>, attend_row<CacheBF16, false>, attend_row<CacheQ8, false>,
                       attend_row<CacheQ4, false>},
        .attend_panel_capped = {narrow_panel<CacheF16, true>, attend_panel<CacheF32, true>, narrow_panel<CacheBF16, true>,
                                narrow_panel<CacheQ8, true>, narrow_panel<CacheQ4, true>},
        .attend_row_capped = {attend_row<CacheF16, true>, attend_row<CacheF32, true>, attend_row<CacheBF16, true>,
                              attend_row<CacheQ8, true>, attend_row<CacheQ4, true>},
        .hadamard = hadamard,
        .mean_keys = {mean_keys<CacheF16>, mean_keys<CacheF32>, mean_keys<CacheBF16>, mean_keys<CacheQ8>, mean_keys<CacheQ4>},
        .score_means = score_means,
        .weigh_pages = weigh_pages,
        .load_keys = {load_keys<CacheF16>, load_keys<CacheF32>, load_keys<CacheBF16>, load_keys<CacheQ8>, load_keys<CacheQ4>},
        .gather_rows = {gather_rows<CacheF16>, gather_rows<CacheF32>, gather_rows<CacheBF16>, gather_rows<CacheQ8>, gather_rows<CacheQ4>},
        .fold_lines = fold_lines,
        .fold_exp_sum = fold_exp_sum,
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
        .packed = &packed_kernels,
#else
        .packed = nullptr,
#endif
    };
}

}  // namespace
}  // namespace dca::cpu
