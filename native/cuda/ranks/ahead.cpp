#include "cuda/ranks/ahead.h"

#include <algorithm>
#include <cstdlib>

namespace dca::cuda {

namespace {

constexpr uint32_t kPiece = 4096;  // bytes

}  // namespace

Ahead ahead_of(const Card& card, const Matrix* next) {
    const double asked = [] {  // MEASURING: MB; negative: the beginning of every row
        const char* text = std::getenv("DCA_AHEAD");
        return text == nullptr ? 0.0 : std::atof(text);
    }();
    if (next == nullptr || next->low == nullptr || asked == 0.0 || card.compute_capability < 90) return {};
    const uint64_t bytes = std::min(plane_bytes(next->format, next->rows, next->cols).low, static_cast<uint64_t>(std::abs(asked) * 1e6));
    const std::byte* from = static_cast<const std::byte*>(next->low);
    if (asked > 0) return {from, static_cast<uint32_t>(bytes / kPiece), kPiece, kPiece};
    const uint64_t row = plane_bytes(next->format, next->rows, next->cols).low / next->rows;
    return {from, next->rows, static_cast<uint32_t>(bytes / next->rows / 16 * 16), row / 16 * 16};
}

}  // namespace dca::cuda
