#include "cuda/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/forward.h"
#include "core/page_pool.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

CudaExecutor::CudaExecutor(std::shared_ptr<StepState> session)
    : owned_(std::move(session)), session_(*owned_), block_(session_), row_(session_) {}

CudaExecutor::~CudaExecutor() { static_cast<void>(cudaStreamSynchronize(state_.stream.get())); }

void CudaExecutor::keep_rows(uint32_t rows) {
    state_.rows = rows;
    step_ = rows == 1 ? static_cast<Step*>(&row_) : &block_;
}

void CudaExecutor::prepare_step(const Slice& slice) {
    // The kernels read a sequence's keys as one run.
    for (uint32_t page = 0; page < pages_for(slice.end()); ++page) {
        if (slice.pages[page] != page) fail(DCA_ERROR_UNSUPPORTED, "on a CUDA device an engine holds one sequence so far");
    }
    check(cudaSetDevice(state_.device.ordinal), "selecting the card");
    std::ranges::copy(slice.tokens, state_.memory.tokens);
    *state_.memory.start = slice.start;
    state_.first_row = 0;
    state_.start = slice.start;
    wanted_ = slice.wanted;
    keep_rows(slice.rows());
}

bool CudaExecutor::replay(const Batch& batch) {
    using Recording = RowStep::Recording;
    if (!batch.decode() || row_.recording() == Recording::Cold || row_.recording() == Recording::UnderWay) return false;
    if (row_.recording() == Recording::Warm) {
        check(cudaSetDevice(state_.device.ordinal), "selecting the card");
        row_.record([&] { forward(*this, state_.h, batch); });
    }
    prepare_step(batch.slices.front());
    row_.play();
    return true;
}

void CudaExecutor::begin(const Batch& batch) {
    prepare_step(batch.slices.front());
    row_.begin(state_.rows == 1);
    const WorkSpace& m = state_.memory;
    const EmbedArgs args{state_.weights.token_embedding(), m.tokens, m.start, state_.rows, m.x, m.length};
    check(embed(args, state_.stream.get()), "embedding tokens");
}

void CudaExecutor::keep_wanted_rows() {
    const uint32_t dropped = state_.rows - wanted_;
    state_.first_row += dropped;
    state_.start += dropped;
    keep_rows(wanted_);
}

void CudaExecutor::logits(std::span<float* const> out) {
    step_->logits(out.front());  // one sequence's rows lie back to back
}

void CudaExecutor::nll(std::span<const int32_t> targets, float* out) {
    std::ranges::copy(targets, state_.memory.targets);
    step_->nll(static_cast<uint32_t>(targets.size()));
    state_.wait();
    std::memcpy(out, state_.memory.nll, targets.size() * sizeof(float));
}

void CudaExecutor::sample(std::span<SampleRequest* const> requests) {
    std::vector<float> row(state_.h.n_vocab);
    step_->logits(row.data());
    dca::sample(row, *requests.front());
}

}  // namespace dca::cuda
