// A session's steps on a card, as core/backend.h has them: begin() and keep_last_rows() decide which kind of
// step runs the operations that follow.
#pragma once

#include <span>

#include "core/backend.h"
#include "cuda/block_step.h"
#include "cuda/row_step.h"
#include "cuda/session.h"

namespace dca::cuda {

class CudaExecutor final : public Executor {
public:
    CudaExecutor(const Hparams& hparams, const DeviceWeights& weights, const Device& device, const ExecutorOptions& options);
    ~CudaExecutor() override;

    uint32_t prefill_block() const override { return session_.memory.block; }
    uint64_t cache_bytes() const override { return session_.memory.cache_bytes; }
    uint64_t scratch_bytes() const override { return session_.memory.scratch_bytes; }

    void copy_cache(const Executor& from, uint32_t length) override;
    bool replay(std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) override;
    void begin(std::span<const int32_t> tokens, uint32_t start) override;
    void project_qkv(uint32_t layer) override { step_->project_qkv(layer); }
    void store_keys_values(uint32_t layer) override { step_->store_keys_values(layer); }
    void keep_last_rows(uint32_t rows) override;
    void attend(uint32_t layer) override { step_->attend(layer); }
    void project_output(uint32_t layer) override { step_->project_output(layer); }
    void feed_forward(uint32_t layer) override { step_->feed_forward(layer); }
    void feed_forward_experts(uint32_t layer) override { step_->feed_forward_experts(layer); }
    void logits(float* out) override { step_->logits(out); }
    void nll(std::span<const int32_t> targets, float* out) override;
    void end() override { session_.wait(); }

private:
    void prepare_step(std::span<const int32_t> tokens, uint32_t start);
    void keep_rows(uint32_t rows);

    CudaSession session_;
    BlockStep block_;
    RowStep row_;
    Step* step_ = nullptr;  // one of the two, by the rows that are kept
};

}  // namespace dca::cuda
