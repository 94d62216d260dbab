#include "cuda/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/backend/forward.h"
#include "core/engine/page_pool.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

CudaExecutor::CudaExecutor(std::shared_ptr<CudaSession> session)
    : owned_(std::move(session)), session_(*owned_), block_(session_), row_(session_) {}

CudaExecutor::~CudaExecutor() { static_cast<void>(cudaStreamSynchronize(session_.stream.get())); }

void CudaExecutor::keep_rows(uint32_t rows) {
    session_.rows = rows;
    step_ = rows == 1 ? static_cast<Step*>(&row_) : &block_;
}

void CudaExecutor::prepare_step(const Slice& slice) {
    // The kernels read a sequence's keys as one run.
    for (uint32_t page = 0; page < pages_for(slice.end()); ++page) {
        if (slice.pages[page] != page) fail(DCA_ERROR_UNSUPPORTED, "on a CUDA device an engine holds one sequence so far");
    }
    check(cudaSetDevice(session_.device.ordinal), "selecting the card");
    std::ranges::copy(slice.tokens, session_.memory.tokens);
    *session_.memory.start = slice.start;
    session_.first_row = 0;
    session_.start = slice.start;
    wanted_ = slice.wanted;
    keep_rows(slice.rows());
}

bool CudaExecutor::replay(const Batch& batch) {
    using Recording = RowStep::Recording;
    if (!batch.decode() || row_.recording() == Recording::Cold || row_.recording() == Recording::UnderWay) return false;
    if (row_.recording() == Recording::Warm) {
        check(cudaSetDevice(session_.device.ordinal), "selecting the card");
        row_.record([&] { forward(*this, session_.h, batch); });
    }
    prepare_step(batch.slices.front());
    row_.play();
    return true;
}

void CudaExecutor::begin(const Batch& batch) {
    prepare_step(batch.slices.front());
    row_.begin(session_.rows == 1);
    const SessionMemory& m = session_.memory;
    const EmbedArgs args{session_.weights.token_embedding(), m.tokens, m.start, session_.rows, m.x, m.length};
    check(embed(args, session_.stream.get()), "embedding tokens");
}

void CudaExecutor::keep_wanted_rows() {
    const uint32_t dropped = session_.rows - wanted_;
    session_.first_row += dropped;
    session_.start += dropped;
    keep_rows(wanted_);
}

void CudaExecutor::logits(std::span<float* const> out) {
    step_->logits(out.front());  // one sequence's rows lie back to back
}

void CudaExecutor::nll(std::span<const int32_t> targets, float* out) {
    std::ranges::copy(targets, session_.memory.targets);
    step_->nll(static_cast<uint32_t>(targets.size()));
    session_.wait();
    std::memcpy(out, session_.memory.nll, targets.size() * sizeof(float));
}

void CudaExecutor::sample(std::span<SampleRequest* const> requests) {
    std::vector<float> row(session_.h.n_vocab);
    step_->logits(row.data());
    dca::sample(row, *requests.front());
}

}  // namespace dca::cuda
