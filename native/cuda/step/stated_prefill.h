// Stated budgets in an engine's steps (docs/sparse.md): what a step has of one chunk of a sequence is a unit, and its last queries
// choose for it.
#pragma once

#include "cuda/sparse/stated/choose_lines.h"
#include "cuda/step/prefill_choice.h"

namespace dca::cuda {

class StatedPrefill final : public PrefillChoice {
public:
    StatedPrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const LineMemory& memory);

protected:
    Chosen choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept override;
    void attend_chosen(uint32_t layer, const PrefillArgs& part, const CudaKvCache& cache, cudaStream_t stream,
                       const Attend& attend) override;

private:
    void record(uint32_t layer, const PrefillArgs& unit, cudaStream_t stream);

    LineMemory memory_;
    LineRotation rotation_;
};

}  // namespace dca::cuda
