// Steps on a card, as core/backend/backend.h has them: how many rows are kept decides which kind of step runs the operations.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "core/backend/backend.h"
#include "core/backend/operations.h"
#include "cuda/step/block_step.h"
#include "cuda/step/recordings.h"
#include "cuda/step/row_step.h"
#include "cuda/sampling/sampler.h"
#include "cuda/step/step.h"

namespace dca::cuda {

class CudaExecutor final : public Executor, public Operations {
public:
    /// The cache outlives it; `state` names none yet.
    CudaExecutor(std::unique_ptr<StepState> state, CudaKvCache& cache, const RankLink& link);
    ~CudaExecutor() override;

    uint32_t max_rows() const override { return state_.memory.block; }
    uint32_t max_slices() const override { return state_.memory.slices; }
    uint64_t scratch_bytes() const override { return state_.memory.scratch_bytes + state_.cache->page_bytes(); }

    void run(const Batch& batch) override;

    // Decode batches are padded to a size that has a recording, but for a mixture's of many rows: it waits for the host.
    bool replay(const Batch& batch) override;
    void begin(const Batch& batch) override;
    void project_qkv(uint32_t layer) override { step_->project_qkv(layer); }
    void store_keys_values(uint32_t layer) override { step_->store_keys_values(layer); }
    void keep_wanted_rows() override;
    void attend(uint32_t layer) override { state_.attend(layer); }
    void project_output(uint32_t layer) override { step_->project_output(layer); }
    void feed_forward(uint32_t layer) override { step_->feed_forward(layer); }
    void feed_forward_experts(uint32_t layer) override { step_->feed_forward_experts(layer); }
    void logits(std::span<float* const> out) override;
    void score(std::span<const int32_t> targets, TokenScore* out) override;
    void sample(std::span<SampleRequest* const> requests) override;
    void end() override;
    void density(std::span<float> out) const override;
    std::vector<uint32_t> selection() const override;

private:
    void prepare(const Batch& batch);
    void keep_all_rows();
    void set_played(bool played);
    /// The number of the step's recording.
    uint32_t recording() const noexcept { return 2 * recorded_rows_ + (state_.input.grouped() ? 1 : 0); }
    void choose_step();
    /// Copies so many logits from the card.
    using CopyRows = std::function<cudaError_t(const float* from, size_t n, float* to)>;
    void read_logits(std::span<float* const> out, const CopyRows& copy);
    std::unique_ptr<StepState> owned_;
    StepState& state_;
    BlockStep block_;
    RowStep row_;
    Step* step_ = nullptr;  // one of the two, by the rows that are kept
    Recordings recordings_;
    uint32_t recorded_rows_ = 0;  // of the step if it can be recorded; 0: it cannot
    bool under_way_ = false;      // the card may still read the step's input

    // Where layers are shared out.
    const CudaExecutor* previous_;  // whose x this one goes on with; null: it starts with tokens
    bool last_;                     // its last layer is the model's
    Event handed_on_;               // x is what the next one goes on with; null where there is none

    Sampler sampler_;
};

}  // namespace dca::cuda
