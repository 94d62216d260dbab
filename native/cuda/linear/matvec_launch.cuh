// From a product's shape to the kernel and its launch.
#pragma once

#include <algorithm>

#include "cuda/device/allow_shared.h"
#include "cuda/linear/matvec.cuh"

namespace dca::cuda::vec {

constexpr int kMostSteps = 4, kFewSteps = 3, kFewestSteps = 2;  // of the rings: as many as shared memory holds
constexpr size_t kSharedByDefault = 48 * 1024;

template <class W>
size_t shared_bytes(uint32_t cols, int steps) {
    return size_t{Step<W>::kBytes} * steps * kWarps + vector_bytes<W>(cols);
}

/// Calls visit(W{}) with the reader of the format.
template <class Visit>
void visit_reader(WeightFormat format, Visit&& visit) {
    const bool quantised = visit_planes(format, [&](auto planes) { visit(Quantised<decltype(planes)>{}); });
    if (quantised) return;
    if (format == WeightFormat::F16)
        visit(Dense<__half>{});
    else
        visit(Dense<__nv_bfloat16>{});
}

template <class Args>
cudaError_t launch(const Card& card, void (*kernel)(Args), size_t bytes, const Matrix& w, uint32_t products, cudaStream_t stream,
                   const Args& args) {
    if (bytes > kSharedByDefault) {
        if (const cudaError_t status = allow_shared_bytes(kernel, bytes); status != cudaSuccess) return status;
    }
    const uint32_t items = (w.rows + 1) / 2, blocks = std::max(1u, static_cast<uint32_t>(card.multiprocessors) / products);
    const dim3 grid(std::min(blocks, (items + kWarps - 1) / kWarps), products);
    return launch_overlapped(card, kernel, grid, kThreads, bytes, stream, args);
}

/// Kernel::get<W, kSteps>() is the kernel that takes `args`, a row of the grid for each of `products` products with matrices like w.
template <class Kernel, class Args>
cudaError_t launch_fitting(const Card& card, const Matrix& w, uint32_t products, const Args& args, cudaStream_t stream) {
    if (!matvec_takes(card, w)) return cudaErrorInvalidValue;
    cudaError_t status = cudaSuccess;
    visit_reader(w.format, [&](auto reader) {
        using W = decltype(reader);
        const auto bytes = [&](int steps) { return shared_bytes<W>(w.cols, steps); };
        const auto fits = [&](int steps) { return bytes(steps) + kStaticBytes <= card.shared_bytes; };
        if (fits(kMostSteps))
            status = launch(card, Kernel::template get<W, kMostSteps>(), bytes(kMostSteps), w, products, stream, args);
        else if (fits(kFewSteps))
            status = launch(card, Kernel::template get<W, kFewSteps>(), bytes(kFewSteps), w, products, stream, args);
        else
            status = launch(card, Kernel::template get<W, kFewestSteps>(), bytes(kFewestSteps), w, products, stream, args);
    });
    return status;
}

}  // namespace dca::cuda::vec
