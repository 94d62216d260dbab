// From a product with few rows to its kernels and their launch.
#pragma once

#include <algorithm>

#include "cuda/device/allow_shared.h"
#include "cuda/linear/small_batch/small_batch.cuh"

namespace dca::cuda::few {

template <class F, class T, int kTiles>
cudaError_t launch_kernels(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    using H = Shape<kTiles>;
    const uint32_t tiles = (args.w.rows + kTileRows - 1) / kTileRows, steps = (args.w.cols + Step<F>::kCols - 1) / Step<F>::kCols;
    const uint32_t passes = (args.rows + H::kRows - 1) / H::kRows, total = tiles * steps;
    const uint32_t blocks = std::min(static_cast<uint32_t>(card.multiprocessors), total);
    constexpr uint32_t kStageBytes = Step<F>::stage_bytes(H::kRows);
    const uint32_t stages = std::min(kMostStages, static_cast<uint32_t>((card.shared_bytes - kReservedBytes) / kStageBytes));
    const Work work{args, {steps, total, blocks}, stages};

    const auto kernel = multiply_kernel<F, T, kTiles>;
    const size_t bytes = size_t{stages} * kStageBytes;
    cudaError_t status = allow_shared_bytes(kernel, bytes);
    if (status == cudaSuccess) status = launch_overlapped(card, kernel, dim3(passes, blocks), H::kThreads, bytes, stream, work);
    if (status != cudaSuccess || tiles % blocks == 0) return status;  // every block has whole tiles
    const bool by_block = blocks < tiles;
    const dim3 grid(passes, H::kFragments * kTiles, by_block ? blocks : tiles);
    return launch_overlapped(card, add_parts_kernel<T, kTiles>, grid, H::kThreads, 0, stream, work, by_block);
}

template <int kTiles>
cudaError_t launch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    const bool f16 = args.dtype == Dtype::F16;
    cudaError_t status = cudaSuccess;
    const bool quantised = visit_planes(args.w.format, [&](auto planes) {
        using F = Quantised<decltype(planes)>;
        status = f16 ? launch_kernels<F, __half, kTiles>(card, args, stream) : launch_kernels<F, __nv_bfloat16, kTiles>(card, args, stream);
    });
    if (quantised) return status;
    return f16 ? launch_kernels<Dense, __half, kTiles>(card, args, stream)
               : launch_kernels<Dense, __nv_bfloat16, kTiles>(card, args, stream);
}

}  // namespace dca::cuda::few
