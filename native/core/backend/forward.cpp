#include "core/backend/forward.h"

namespace dca {

void forward(Operations& operations, const Hparams& hparams, const Batch& batch, bool last) {
    if (operations.replay(batch)) return;
    operations.begin(batch);
    for (uint32_t layer = 0; layer < hparams.n_layers; ++layer) {
        operations.project_qkv(layer);
        operations.store_keys_values(layer);
        if (last && layer + 1 == hparams.n_layers) {
            if (batch.wanted() == 0) break;
            operations.keep_wanted_rows();
        }
        operations.attend(layer);
        operations.project_output(layer);
        if (hparams.n_experts == 0) {
            operations.feed_forward(layer);
        } else {
            operations.feed_forward_experts(layer);
        }
    }
}

}  // namespace dca
