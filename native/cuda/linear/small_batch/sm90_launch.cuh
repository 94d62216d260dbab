// From a product with few rows to its kernel on Hopper and its launch.
#pragma once

#include "core/positions/key_ranges.h"
#include "cuda/device/allow_shared.h"
#include "cuda/device/cluster_launch.h"
#include "cuda/device/tensor_map.h"
#include "cuda/linear/small_batch/dense_sm90.cuh"
#include "cuda/linear/small_batch/sm90.cuh"
#include "cuda/linear/small_batch/sm90.h"

namespace dca::cuda::few::sm90 {

/// A plane of rows of `row_bytes`, read in boxes of half a tile's rows and `box_bytes` of each.
inline cudaError_t map_plane(const void* plane, uint32_t rows, uint64_t row_bytes, uint32_t box_bytes, uint32_t swizzle, CUtensorMap& map) {
    return make_tensor_map({plane, {row_bytes / 2, rows, 1}, {row_bytes, row_bytes * rows}, {box_bytes / 2, kBoxRows, 1}, swizzle}, map);
}

/// Blocks of a cluster that has a tile: as many as find room on the card.
inline uint32_t blocks_together(const Card& card, const ClusterLaunch& clusters, uint32_t tiles, uint32_t steps) {
    uint32_t together = std::clamp(static_cast<uint32_t>(card.multiprocessors) / tiles, 1u, std::min(steps, kMostTogether));
    while (together > 1 && tiles > clusters.most(together)) --together;
    return together;
}

template <class F, class T, int kN>
cudaError_t launch_kernel(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    using C = Config<F, kN>;
    using S = Step<F>;
    const Matrix& w = args.w;
    const uint32_t tiles = (w.rows + kTileRows - 1) / kTileRows, steps = (w.cols + S::kCols - 1) / S::kCols;
    const uint32_t passes = (args.rows + kN - 1) / kN;
    const uint32_t room = static_cast<uint32_t>(card.shared_bytes) - kAlignment - sizeof(Barriers) - PairTable<F, kN>::kBytes;
    const uint32_t stages = std::min(kMostStages, room / C::kStageBytes);
    if (stages < kFewestStages) return cudaErrorNotSupported;

    Maps maps{};
    const uint64_t units = padded_units(w.cols);
    cudaError_t status = map_plane(w.low, w.rows, uint64_t{w.cols} * F::kLowBits / 8, kStepBytes, kStepBytes, maps.low);
    if constexpr (F::kHighBytes > 0)
        if (status == cudaSuccess) status = map_plane(w.high, w.rows, units * F::kHighBytes, S::kHighRow, 0, maps.high);
    if constexpr (F::kScaleBytes > 0)
        if (status == cudaSuccess) status = map_plane(w.scales, w.rows, units * F::kScaleBytes, C::kScaleBox, 0, maps.scales);
    if constexpr (C::kMma)
        if (status == cudaSuccess)
            status = make_tensor_map(
                {args.x, {w.cols, args.rows, 1}, {w.cols * 2ull, uint64_t{w.cols} * 2 * args.rows}, {kXBoxColumns, kN, 1}, 128}, maps.x);

    const auto kernel = multiply_kernel<F, T, kN>;
    const size_t bytes = size_t{stages} * C::kStageBytes + PairTable<F, kN>::kBytes + kAlignment;
    if (status == cudaSuccess) status = allow_shared_bytes(kernel, bytes);
    if (status != cudaSuccess) return status;

    const ClusterLaunch clusters{reinterpret_cast<const void*>(kernel), C::kThreads, bytes};
    uint32_t together = blocks_together(card, clusters, tiles, steps);
    together = ceil_div(steps, ceil_div(steps, together));  // as few as have as few steps each
    const uint32_t blocks = together > 1 ? tiles * together : std::min(static_cast<uint32_t>(card.multiprocessors), tiles);
    const Job job{args, tiles, steps, together, stages};
    return clusters.launch(card, kernel, dim3(passes, blocks), together, stream, maps, job);
}

template <class T, int kN>
cudaError_t launch_dense(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    using C = dense::Config<kN>;
    const Matrix& w = args.w;
    const uint64_t row_bytes = uint64_t{w.cols} * 2, rows = args.gated ? w.rows / 2 : w.rows;
    dense::Maps maps;
    cudaError_t status = make_tensor_map({w.low,
                                          {w.cols, rows, args.gated ? 2u : 1u},
                                          {row_bytes, row_bytes * rows},
                                          {C::kGroupCols, args.gated ? C::kHalf : C::kRows, args.gated ? 2u : 1u},
                                          C::kRowBytes},
                                         maps.w);
    if (status == cudaSuccess)
        status = make_tensor_map({args.x, {w.cols, args.rows, 1}, {row_bytes, row_bytes * args.rows}, {C::kGroupCols, kN, 1}, C::kRowBytes},
                                 maps.x);
    constexpr size_t kBytes = sizeof(dense::Shared<C>) + 1023;  // room to align
    const auto kernel = dense::multiply_kernel<T, kN>;
    if (status == cudaSuccess) status = allow_shared_bytes(kernel, kBytes);
    if (status == cudaSuccess) status = divide_memory(kernel, cudaSharedmemCarveoutMaxShared);
    if (status != cudaSuccess) return status;
    const uint32_t tiles = args.gated ? ceil_div(w.rows / 2, C::kHalf) : ceil_div(w.rows, C::kRows), steps = ceil_div(w.cols, C::kCols);
    const ClusterLaunch clusters{reinterpret_cast<const void*>(kernel), C::kThreads, kBytes};
    const uint32_t together = blocks_together(card, clusters, tiles, steps);
    const uint32_t blocks = together > 1 ? tiles * together : std::min(static_cast<uint32_t>(card.multiprocessors), tiles);
    return clusters.launch(card, kernel, dim3(ceil_div(args.rows, C::kN), blocks), together, stream, maps, args, tiles, steps, together);
}

template <int kN>
cudaError_t launch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    const bool f16 = args.dtype == Dtype::F16;
    cudaError_t status = cudaSuccess;
    const bool quantised = visit_planes(args.w.format, [&](auto planes) {
        using F = Quantised<decltype(planes)>;
        status = f16 ? launch_kernel<F, __half, kN>(card, args, stream) : launch_kernel<F, __nv_bfloat16, kN>(card, args, stream);
    });
    if (quantised) return status;
    return f16 ? launch_dense<__half, kN>(card, args, stream) : launch_dense<__nv_bfloat16, kN>(card, args, stream);
}

}  // namespace dca::cuda::few::sm90
