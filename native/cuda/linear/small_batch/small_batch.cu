#include "cuda/linear/small_batch/small_batch.cuh"

#include <algorithm>

#include "core/positions/key_ranges.h"
#include "cuda/linear/small_batch/sm90.h"

namespace dca::cuda {
namespace {

/// Bytes of the largest stage, whatever the format, of a pass of `tiles` times 8 rows.
uint32_t stage_bytes(const Matrix& w, uint32_t tiles) {
    uint32_t bytes = few::Step<few::Dense>::stage_bytes(8 * tiles);
    visit_planes(w.format, [&](auto planes) { bytes = few::Step<few::Quantised<decltype(planes)>>::stage_bytes(8 * tiles); });
    return bytes;
}

/// Rows of a pass, in eights: as few as hold all rows, or as many as the card's shared memory holds; 0: it holds none.
uint32_t pass_tiles(const Card& card, const Matrix& w, uint32_t rows) {
    uint32_t fitting = 0;
    for (const uint32_t tiles : {2u, 4u, 8u}) {
        if (few::kFewestStages * stage_bytes(w, tiles) + few::kReservedBytes > card.shared_bytes) break;
        fitting = tiles;
        if (8 * tiles >= rows) break;
    }
    return fitting;
}

}  // namespace

bool small_batch_takes(const Card& card, const Matrix& w, uint32_t rows) {
    const bool dense = w.format == WeightFormat::F16 || w.format == WeightFormat::BF16;
    return card.compute_capability >= 80 && rows > 0 && rows <= kSmallBatchRows && w.rows > 0 && w.cols > 0 &&
           w.cols % (dense ? 8 : kUnit) == 0 && pass_tiles(card, w, rows) > 0;
}

/// A quantised matrix would have to be expanded to 16 bits for cuBLASLt: written and read again, nine times the bytes of a
/// four-bit one. 16-bit ones of up to 16 rows are multiplied here where their tiles are on a third of the card's multiprocessors,
/// which is enough to keep memory busy: they start before the kernel before ends, and gates are multiplied at once
/// (docs/benchmarks.md). More rows take longer here.
bool small_batch_preferred(const Card& card, const Matrix& w, uint32_t rows) {
    if (!small_batch_takes(card, w, rows)) return false;
    if (w.format != WeightFormat::F16 && w.format != WeightFormat::BF16) return true;
    const uint32_t tiles = w.rows / few::sm90::kDenseRows;
    return rows <= 16 && few::sm90::takes(card, w) && 3 * tiles >= static_cast<uint32_t>(card.multiprocessors);
}

bool small_batch_gates(const Card& card, const Matrix& w, uint32_t rows) {
    return w.rows % few::kTileRows == 0 && few::sm90::takes(card, w) && small_batch_preferred(card, w, rows);
}

size_t small_batch_workspace_bytes(const Card& card, uint32_t rows) {
    const uint32_t most = std::min(rows, kSmallBatchRows), padded = most <= 16 ? 16 : most <= 32 ? 32 : (most + 63) / 64 * 64;
    return size_t{2} * card.multiprocessors * few::kTileRows * padded * sizeof(float);
}

cudaError_t small_batch(const Card& card, const SmallBatchArgs& args, cudaStream_t stream) {
    if (!small_batch_takes(card, args.w, args.rows)) return cudaErrorInvalidValue;
    const bool dense = args.w.format == WeightFormat::F16 || args.w.format == WeightFormat::BF16;
    if (dense && (args.w.format == WeightFormat::F16) != (args.dtype == Dtype::F16)) return cudaErrorInvalidValue;
    if (args.gated && (args.add || args.y_f32 || args.w.rows % few::kTileRows != 0 || !few::sm90::takes(card, args.w)))
        return cudaErrorInvalidValue;
    if (few::sm90::takes(card, args.w)) {
        if (args.rows <= 16) return few::sm90::launch<16>(card, args, stream);
        if (args.rows <= 32) return few::sm90::launch<32>(card, args, stream);
        return few::sm90::launch<64>(card, args, stream);
    }
    switch (pass_tiles(card, args.w, args.rows)) {
        case 2: return few::launch<2>(card, args, stream);
        case 4: return few::launch<4>(card, args, stream);
        default: return few::launch<8>(card, args, stream);
    }
}

}  // namespace dca::cuda
