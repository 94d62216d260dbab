// The C API of sums of squares over a model's inputs.
#include "core/api/support.h"
#include "core/backend/column_squares.h"

namespace dca {
namespace {

/// Which of the matrices stacked in its tensor an entry is for; -1 for rows of a fused matrix but the first ones, whose
/// input is the same.
int64_t place_of(const GgufFile& file, const Tensor& matrix) {
    const Tensor* whole = file.find_tensor(matrix.name);
    if (whole == nullptr) return -1;
    const int64_t at = matrix.data - whole->data, one = whole->rows * whole->row_bytes();
    return at % one == 0 ? at / one : -1;
}

}  // namespace
}  // namespace dca

using dca::guarded;
using dca::needed;

dca_status dca_session_collect_squares(dca_session* session) {
    return guarded([&] { needed(session, "session").session.collect_squares(); });
}

dca_status dca_session_each_squares(const dca_session* session, dca_squares_visitor visit, void* user) {
    return guarded([&] {
        const dca_session& all = needed(session, "session");
        if (visit == nullptr) dca::fail(DCA_ERROR_ARGUMENT, "visit is NULL");
        for (const auto& [data, entry] : all.session.squares().entries()) {
            const int64_t place = dca::place_of(all.model->file(), entry.matrix);
            if (place < 0) continue;
            const dca_squares squares{.tensor = entry.matrix.name.data(),
                                      .tensor_bytes = entry.matrix.name.size(),
                                      .matrix = static_cast<uint32_t>(place),
                                      .matrices = static_cast<uint32_t>(all.model->file().find_tensor(entry.matrix.name)->depth),
                                      .columns = static_cast<uint32_t>(entry.sums.size()),
                                      .rows = entry.rows,
                                      .sums = entry.sums.data()};
            visit(&squares, user);
        }
    });
}
