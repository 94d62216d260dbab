// Prompts of which some rows read less than everything before them, in an engine's steps (docs/sparse.md): which rows those are,
// and what was read. How they choose say SparsePrefill and StatedPrefill.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/backend/backend.h"
#include "cuda/device/device.h"
#include "cuda/kv_cache.h"
#include "cuda/sparse/memory.h"

namespace dca::cuda {

class PrefillChoice {
public:
    PrefillChoice(const Hparams& hparams, const Device& device, const EngineSpec& spec, const ListMemory& memory);
    virtual ~PrefillChoice() = default;

    /// The step's keys are about to be written.
    virtual void begin(const Batch& batch, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream);
    /// The step's keys of a layer are stored.
    virtual void stored(uint32_t layer, const AttentionShape& shape, const CudaKvCache& cache, cudaStream_t stream) const;
    /// The step has run.
    virtual void end(const CudaKvCache& cache);

    /// Attention of a slice's rows, of which those at indices below `sparse_end` may choose: `attend` is called for runs of rows
    /// that follow each other.
    using Attend = std::function<void(const PrefillArgs&)>;
    void attend(uint32_t layer, const PrefillArgs& slice, uint32_t sparse_end, const CudaKvCache& cache, cudaStream_t stream,
                const Attend& attend);

    /// As of Executor. The device has done what it was given.
    void density(std::span<float> out) const;
    std::vector<uint32_t> selection() const;

protected:
    /// The rows [begin, end) of a slice, as indices in the sequence, that choose; may be empty.
    struct Chosen {
        uint32_t begin, end;
    };
    virtual Chosen choosing(uint32_t start, uint32_t end, uint32_t sparse_end) const noexcept;
    /// Attention of rows that choose.
    virtual void attend_chosen(uint32_t layer, const PrefillArgs& part, const CudaKvCache& cache, cudaStream_t stream,
                               const Attend& attend) = 0;

    /// The lists of a call over [start, end), where they lie.
    PageLists lists_of(const PrefillArgs& part) const;
    unsigned long long* unread(uint32_t layer) const noexcept { return memory_.unread + size_t{layer} * h_.n_heads; }
    /// Keeps the words of a block (dca_session_selection).
    void keep(std::vector<uint32_t> words) { recorded_.push_back(std::move(words)); }

    const Hparams& h_;
    Device device_;
    PrefillSpec prefill_;
    Scheme scheme_;

private:
    ListMemory memory_;
    std::vector<uint64_t> seen_;                   // (n_layers): pairs of a query and a key before it, of a head
    std::vector<std::vector<uint32_t>> recorded_;  // dca_session_selection's blocks
};

/// The same arguments for queries [begin, end) only.
PrefillArgs part_of(const PrefillArgs& slice, uint32_t begin, uint32_t end);

}  // namespace dca::cuda
