// A sequence's steps on a card, as core/backend/backend.h has them: begin() and keep_wanted_rows() decide which kind of
// step runs the operations that follow.
#pragma once

#include <memory>
#include <span>

#include "core/backend/backend.h"
#include "cuda/block_step.h"
#include "cuda/row_step.h"
#include "cuda/session.h"

namespace dca::cuda {

class CudaExecutor final : public Executor {
public:
    explicit CudaExecutor(std::shared_ptr<CudaSession> session);
    ~CudaExecutor() override;

    uint32_t max_rows() const override { return session_.memory.block; }
    uint32_t max_slices() const override { return 1; }
    uint64_t scratch_bytes() const override { return session_.memory.scratch_bytes; }

    bool replay(const Batch& batch) override;
    void begin(const Batch& batch) override;
    void project_qkv(uint32_t layer) override { step_->project_qkv(layer); }
    void store_keys_values(uint32_t layer) override { step_->store_keys_values(layer); }
    void keep_wanted_rows() override;
    void attend(uint32_t layer) override { step_->attend(layer); }
    void project_output(uint32_t layer) override { step_->project_output(layer); }
    void feed_forward(uint32_t layer) override { step_->feed_forward(layer); }
    void feed_forward_experts(uint32_t layer) override { step_->feed_forward_experts(layer); }
    void logits(std::span<float* const> out) override;
    void nll(std::span<const int32_t> targets, float* out) override;
    void sample(std::span<SampleRequest* const> requests) override;
    void end() override { session_.wait(); }

private:
    void prepare_step(const Slice& slice);
    void keep_rows(uint32_t rows);

    std::shared_ptr<CudaSession> owned_;
    CudaSession& session_;
    BlockStep block_;
    RowStep row_;
    Step* step_ = nullptr;  // one of the two, by the rows that are kept
    uint32_t wanted_ = 0;
};

}  // namespace dca::cuda
