#include "core/forward.h"

namespace dca {

void forward(Executor& executor, const Hparams& hparams, std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) {
    if (executor.replay(tokens, start, wanted)) return;
    executor.begin(tokens, start);
    for (uint32_t layer = 0; layer < hparams.n_layers; ++layer) {
        executor.project_qkv(layer);
        executor.store_keys_values(layer);
        if (layer + 1 == hparams.n_layers) {
            // The last layer's output is read only where logits are wanted.
            if (wanted == 0) break;
            executor.keep_last_rows(wanted);
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
