#include "cuda/sparse/select_pages.h"

#include <algorithm>
#include <cmath>

#include "cuda/attention/kernels.h"
#include "cuda/device/allow_shared.h"
#include "cuda/sparse/select_pages.cuh"

namespace dca::cuda {
namespace {

constexpr uint32_t kBlocksAMultiprocessor = selection::Config<128>::kResident;

uint32_t resident_blocks(const Card& card) { return static_cast<uint32_t>(card.multiprocessors) * kBlocksAMultiprocessor; }

uint32_t most_mean_rows(const Scheme& scheme, uint32_t context) {
    const uint32_t rows = select_most_pages(context) + context / scheme.chunk_size + 3 * selection::kMostTile;
    return ceil_div(rows, selection::kMostTile) * selection::kMostTile;
}

template <int kHeadDim>
cudaError_t launch(const Card& card, const selection::Params& params, cudaStream_t stream) {
    using C = selection::Config<kHeadDim>;
    static_assert(C::kMeans <= selection::kMostTile);
    constexpr int kSharedBytes = sizeof(selection::Shared<C>);
    const auto kernel = selection::select_kernel<C>;
    const cudaError_t error = allow_shared_bytes(kernel, kSharedBytes);
    if (error != cudaSuccess) return error;
    const uint32_t items = params.blocks.count * params.args.shape.n_heads;
    kernel<<<std::min(items, resident_blocks(card)), C::kThreads, kSharedBytes, stream>>>(params);
    return cudaGetLastError();
}

}  // namespace

uint32_t select_blocks(uint32_t start, uint32_t n_queries, uint32_t chunk_size) { return PageBlocks(start, n_queries, chunk_size).count; }

size_t select_workspace_bytes(const Card& card, const Scheme& scheme, uint32_t context) {
    return size_t{resident_blocks(card)} * kQuarters * most_mean_rows(scheme, context) * sizeof(float);
}

cudaError_t select_pages(const Card& card, const SelectArgs& args, cudaStream_t stream) {
    if (card.compute_capability < 80 || !fast_shape(args.shape)) return cudaErrorNotSupported;
    if (args.n_queries == 0 || args.scheme.chunk_size < kPageTokens || args.q_stride % 8 != 0) return cudaErrorInvalidValue;
    const uint32_t context = args.start + args.n_queries;
    const selection::Params params{args, PageBlocks(args.start, args.n_queries, args.scheme.chunk_size), select_most_pages(context),
                                   most_mean_rows(args.scheme, context), args.shape.scale * static_cast<float>(M_LOG2E)};
    switch (args.shape.head_dim) {
        case 64: return launch<64>(card, params, stream);
        case 80: return launch<80>(card, params, stream);
        case 96: return launch<96>(card, params, stream);
        case 128: return launch<128>(card, params, stream);
        case 256: return launch<256>(card, params, stream);
        default: return cudaErrorNotSupported;
    }
}

}  // namespace dca::cuda
