// Sums of squares of what matrices are multiplied with (core/backend/column_squares.h).
#include <algorithm>

#include "cpu/executor/executor.h"

namespace dca::cpu {

void CpuExecutor::add_squares(const float* x, int cols, PanelShape shape, std::initializer_list<const Tensor*> readers) {
    constexpr int kColumns = 64;  // of a task
    std::vector<double> sums(static_cast<size_t>(cols));
    pool_.run((cols + kColumns - 1) / kColumns, [&](int task, int) {
        const int end = std::min(cols, (task + 1) * kColumns);
        for (int p = 0; p < shape.panels(); ++p) {
            const float* panel = x + static_cast<size_t>(p) * cols * shape.lanes;
            for (int f = task * kColumns; f < end; ++f) {
                const float* lanes = panel + static_cast<size_t>(f) * shape.lanes;
                for (int lane = 0; lane < shape.rows_of(p); ++lane) sums[f] += double{lanes[lane]} * lanes[lane];
            }
        }
    });
    for (const Tensor* reader : readers) squares_->add(*reader, shape.rows, sums);
}

}  // namespace dca::cpu
