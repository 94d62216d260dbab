// Sparse prefill in an engine's steps (docs/sparse.md): which rows of a slice choose pages, when the pages' means are made,
// and what was read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/backend/backend.h"
#include "cuda/device/device.h"
#include "cuda/device/resources.h"
#include "cuda/kv_cache.h"
#include "cuda/sparse/memory.h"

namespace dca::cuda {

/// For the benchmarks alone, which have random weights without anything to find: engines made from here on let prompts read
/// this share of all pages instead of what alpha says, drawn at random, the same pages for all queries of a page (the queries
/// still choose, so that it takes the time that it takes). Negative: no longer. libdca_cuda exports it under the C name
/// dca_cuda_force_density; no option reaches it.
void force_density(float share) noexcept;

class SparsePrefill {
public:
    SparsePrefill(const Hparams& hparams, const Device& device, const EngineSpec& spec, const SparseMemory& memory);

    /// The step's keys are about to be written: what pages know of their means is settled for it, and those missing are made.
    void begin(const Batch& batch, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream);
    /// The means of the pages that the step filled, once their keys of the layer are stored.
    void store_means(uint32_t layer, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) const;
    /// The step has run.
    void end(const CudaKvCache& cache);

    /// Attention of a slice's rows, of which those at indices below `sparse_end` may choose: `attend` is called for runs of rows
    /// that follow each other.
    void attend(uint32_t layer, const PrefillArgs& slice, uint32_t sparse_end, const CudaKvCache& cache, cudaStream_t stream,
                const std::function<void(const PrefillArgs&)>& attend);

    /// As of Executor. The device has done what it was given.
    void density(std::span<float> out) const;
    std::vector<uint32_t> selection() const;

private:
    /// The rows [begin, end) of a slice, as indices in the sequence, that choose pages; may be empty.
    struct Chosen {
        uint32_t begin, end;
    };
    Chosen choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept;
    /// Of pages_ [first, end).
    void make_means(uint32_t layer, size_t first, size_t end, const AttentionShape& shape, const CudaKvCache& cache,
                    cudaStream_t stream) const;
    void record(uint32_t layer, const PageLists& lists, cudaStream_t stream);

    const Hparams& h_;
    Device device_;
    PrefillSpec prefill_;
    Scheme scheme_;
    SparseMemory memory_;
    float forced_share_;
    PinnedMemory host_;              // (most_filled) of FilledPage
    std::vector<FilledPage> pages_;  // as memory_.filled holds them: those whose means were missing, then those that the step fills
    size_t missing_ = 0;             // of them
    std::vector<uint64_t> seen_;     // (n_layers): pairs of a query and a key before it, of a head
    std::vector<std::vector<uint32_t>> recorded_;  // dca_session_selection's blocks
};

}  // namespace dca::cuda
