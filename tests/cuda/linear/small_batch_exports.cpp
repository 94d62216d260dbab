// The products of few rows under C names, for the Python beside this file.
#include "cuda/linear/small_batch/small_batch.h"

using namespace dca::cuda;

namespace {

/// The card that is current at the first call.
const Card& card() {
    static const Card described = [] {
        Card card;
        int ordinal = 0;
        if (cudaGetDevice(&ordinal) == cudaSuccess) static_cast<void>(describe_card(ordinal, card));
        return card;  // of capability 0 where there is none: nothing takes it
    }();
    return described;
}

}  // namespace

extern "C" {

int dca_small_batch(const SmallBatchArgs* args, cudaStream_t stream) { return small_batch(card(), *args, stream); }
bool dca_small_batch_takes(const Matrix* w, uint32_t rows) { return small_batch_takes(card(), *w, rows); }
size_t dca_small_batch_workspace_bytes(uint32_t rows) { return small_batch_workspace_bytes(card(), rows); }
/// The argument's size, so that the caller can check its own declaration.
size_t dca_small_batch_args_bytes() { return sizeof(SmallBatchArgs); }
}
