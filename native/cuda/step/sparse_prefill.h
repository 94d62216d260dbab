// Sparse prefill in an engine's steps (docs/sparse.md): blocks of queries choose pages by the pages' means, and when these are made.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device/resources.h"
#include "cuda/step/prefill_choice.h"

namespace dca::cuda {

/// For the benchmarks alone, which have random weights without anything to find: engines made from here on let prompts read
/// this share of all pages instead of what alpha says, drawn at random, the same pages for all queries of a page (the queries
/// still choose, so that it takes the time that it takes). Negative: no longer. libdca_cuda exports it under the C name
/// dca_cuda_force_density; no option reaches it.
void force_density(float share) noexcept;

class SparsePrefill final : public PrefillChoice {
public:
    SparsePrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const SparseMemory& memory);

    /// What pages know of their means is settled for the step, and those missing are made.
    void begin(const Batch& batch, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) override;
    /// The means of the pages that the step filled.
    void stored(uint32_t layer, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) const override;
    void end(const CudaKvCache& cache) override;

protected:
    void attend_chosen(uint32_t layer, const PrefillArgs& part, const CudaKvCache& cache, cudaStream_t stream,
                       const Attend& attend) override;

private:
    /// Of pages_ [first, end).
    void make_means(uint32_t layer, size_t first, size_t end, const AttentionShape& shape, const CudaKvCache& cache,
                    cudaStream_t stream) const;
    void record(uint32_t layer, const PageLists& lists, cudaStream_t stream);

    SparseMemory memory_;
    float forced_share_;
    PinnedMemory host_;              // (most_filled) of FilledPage
    std::vector<FilledPage> pages_;  // as memory_.filled holds them: those whose means were missing, then those that the step fills
    size_t missing_ = 0;             // of them
};

}  // namespace dca::cuda
