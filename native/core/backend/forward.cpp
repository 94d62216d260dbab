#include "core/backend/forward.h"

namespace dca {

void forward(Executor& executor, const Hparams& hparams, const Batch& batch) {
    if (executor.replay(batch)) return;
    executor.begin(batch);
    for (uint32_t layer = 0; layer < hparams.n_layers; ++layer) {
        executor.project_qkv(layer);
        executor.store_keys_values(layer);
        if (layer + 1 == hparams.n_layers) {
            // The last layer's output is read only where something is wanted of it.
            if (batch.wanted() == 0) break;
            executor.keep_wanted_rows();
        }
        executor.attend(layer);
        executor.project_output(layer);
        if (hparams.n_experts == 0) {
            executor.feed_forward(layer);
        } else {
            executor.feed_forward_experts(layer);
        }
    }
}

}  // namespace dca
