#include "cuda/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/backend/forward.h"
#include "cuda/device/write_to_host.h"
#include "cuda/linear/elementwise.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

CudaExecutor::CudaExecutor(std::unique_ptr<StepState> state, CudaKvCache& cache, const RankLink& link)
    : owned_(std::move(state)),
      state_(*owned_),
      block_(state_),
      row_(state_),
      previous_(static_cast<const CudaExecutor*>(link.previous)),
      last_(link.last) {
    state_.cache = &cache;
    if (!last_) handed_on_ = make_event();
}

CudaExecutor::~CudaExecutor() {
    static_cast<void>(cudaStreamSynchronize(state_.stream.get()));
    if (state_.post != nullptr) static_cast<void>(cudaStreamSynchronize(state_.post.get()));
}

void CudaExecutor::run(const Batch& batch) {
    if (previous_ != nullptr) {
        check(cudaSetDevice(state_.device.ordinal), "selecting the card");
        check(cudaStreamWaitEvent(state_.stream.get(), previous_->handed_on_.get()), "running the model");
    }
    forward(*this, state_.h, batch, last_);
    if (!last_) check(cudaEventRecord(handed_on_.get(), state_.stream.get()), "running the model");
}

void CudaExecutor::choose_step() { step_ = state_.rows == 1 ? static_cast<Step*>(&row_) : &block_; }

void CudaExecutor::prepare(const Batch& batch) {
    check(cudaSetDevice(state_.device.ordinal), "selecting the card");
    if (under_way_) state_.wait();  // a step that failed half-way may still read its input
    under_way_ = true;
    const uint32_t rows = batch.rows(), most = state_.memory.decode_rows;
    const bool whole = state_.exchange == nullptr || state_.exchange->records();
    const bool recordable = whole && rows <= most && batch.decode(kMostGuessedRows) && (rows == 1 || state_.h.n_experts == 0);
    // Steps that check guesses, 2 ... 8 rows of a sequence, are one kind: they take about the same time, and an answer has few of
    // them to make recordings for.
    const uint32_t at_least = rows > batch.slices.size() ? kMostGuessedRows : 1;
    recorded_rows_ = recordable ? Recordings::rows_for(std::max(rows, at_least), most) : 0;
    const uint32_t padding = recorded_rows_ == 0 ? 0 : recorded_rows_ - rows;
    if (state_.input.set(batch, padding, state_.cache->padding_page())) recordings_.clear();
    state_.cache->begin(batch, state_.stream.get());
    if (state_.choice != nullptr) state_.choice->begin(batch, state_.shape, *state_.cache, state_.stream.get());
    // Memory that is given back or taken may wait for what runs on any card, and a sum that runs waits for all ranks.
    if (state_.exchange != nullptr) state_.exchange->meet();
    keep_all_rows();
    set_played(false);
}

void CudaExecutor::set_played(bool played) {
    row_.set_played(played);
    block_.set_played(played);
}

void CudaExecutor::keep_all_rows() {
    state_.pending.reset();  // of a step that failed
    state_.group = &state_.input.all();
    state_.rows = state_.group->rows;
    state_.first_row = 0;
    choose_step();
}

bool CudaExecutor::replay(const Batch& batch) {
    if (recordings_.under_way()) return false;
    prepare(batch);
    state_.input.upload(state_.stream.get());
    if (recorded_rows_ == 0) return false;
    const auto issue = [&] {
        forward(*this, state_.h, batch, last_);
        if (!last_) return;
        if (step_ == &row_)
            row_.issue_logits();
        else
            static_cast<void>(block_.issue_logits(0));
    };
    bool ready = recordings_.warm(recording()) && recordings_.make(recording(), issue, state_.stream.get());
    // In a recording kernels wait for the other ranks': all play theirs, or none. What may wait for a card comes before or after.
    if (state_.exchange != nullptr) ready = state_.exchange->agree(state_.rank, ready);
    if (!ready) {
        keep_all_rows();  // from the start again: recording came as far as some operation
        return false;
    }
    recordings_.play(recording(), state_.stream.get());
    if (state_.exchange != nullptr) state_.exchange->meet();
    set_played(true);
    return true;
}

// replay() has prepared the step.
void CudaExecutor::begin(const Batch&) {
    const StepInput& input = state_.input;
    const bool one = state_.rows == 1;
    const EmbedArgs args{
        .table = state_.weights.token_embedding(),
        .tokens = one ? reinterpret_cast<const int32_t*>(input.head_on_host()) : input.tokens(),
        .n_tokens = state_.rows,
        .scale = state_.h.embedding_scale,
        .x = state_.memory.x,
        .words_from = input.head_on_host(),
        .words_to = input.head(),
        .n_words = one ? input.head_words() : 0,
    };
    check(embed(args, state_.stream.get()), "embedding tokens");  // one row's input comes with it, also where x does not
    if (previous_ == nullptr) return;
    check(cudaMemcpyAsync(state_.memory.x, previous_->state_.memory.x, sizeof(float) * state_.rows * state_.h.n_embd, cudaMemcpyDefault,
                          state_.stream.get()),
          "running the model");
}

void CudaExecutor::keep_wanted_rows() {
    state_.keep_wanted_rows();
    choose_step();
}

void CudaExecutor::read_logits(std::span<float* const> out, const CopyRows& copy) {
    const size_t n_vocab = state_.h.n_vocab;
    const std::vector<uint32_t>& order = state_.input.kept_order();
    step_->output(static_cast<uint32_t>(out.size()), [&](uint32_t first, uint32_t count) {
        for (uint32_t row = 0; row < count;) {
            // Rows that follow each other on the host are one copy.
            float* to = out[order[first + row]];
            uint32_t run = 1;
            while (row + run < count && out[order[first + row + run]] == to + run * n_vocab) ++run;
            check(copy(state_.memory.logits + row * n_vocab, run * n_vocab, to), "reading logits");
            row += run;
        }
    });
    state_.wait();
}

void CudaExecutor::logits(std::span<float* const> out) {
    const size_t n_vocab = state_.h.n_vocab;
    if (out.size() > state_.memory.host_logits_rows) {
        return read_logits(out, [&](const float* from, size_t n, float* to) {
            return cudaMemcpyAsync(to, from, n * sizeof(float), cudaMemcpyDeviceToHost, state_.stream.get());
        });
    }
    // Copying a few rows to memory that the card reaches, and from there, is quicker than letting the driver do it.
    std::vector<float*> rows(out.size());
    for (size_t row = 0; row < rows.size(); ++row) rows[row] = state_.memory.host_logits + row * n_vocab;
    read_logits(rows, [&](const float* from, size_t n, float* to) { return write_to_host(from, n, to, state_.stream.get()); });
    for (size_t row = 0; row < rows.size(); ++row) std::memcpy(out[row], rows[row], n_vocab * sizeof(float));
}

void CudaExecutor::score(std::span<const int32_t> targets, TokenScore* out) {
    const WorkSpace& memory = state_.memory;
    const std::vector<uint32_t>& order = state_.input.kept_order();
    for (size_t row = 0; row < targets.size(); ++row) memory.targets[row] = targets[order[row]];
    step_->output(static_cast<uint32_t>(targets.size()), [&](uint32_t first, uint32_t count) {
        check(score_tokens(memory.logits, count, state_.h.n_vocab, memory.targets + first, memory.scores + first, state_.stream.get()),
              "scoring");
    });
    state_.wait();
    for (size_t row = 0; row < targets.size(); ++row) out[order[row]] = {memory.scores[row].x, memory.scores[row].y};
}

void CudaExecutor::sample(std::span<SampleRequest* const> requests) {
    std::vector<SampleRequest*> in_order;
    for (const uint32_t wanted : state_.input.kept_order()) in_order.push_back(requests[wanted]);
    step_->output(static_cast<uint32_t>(requests.size()), [&](uint32_t first, uint32_t count) {
        const std::span<SampleRequest* const> of_these = std::span(in_order).subspan(first, count);
        const Card& card = state_.device.card;
        if (state_.exchange == nullptr) return sampler_.sample(card, state_.memory.logits, state_.h.n_vocab, of_these, state_.stream.get());
        CudaExchange& exchange = *state_.exchange;
        if (first != 0) exchange.meet();  // all have chosen from what lay there
        float* whole = exchange.gather_logits(state_.rank, state_.memory.logits, count, state_.stream.get());
        const uint32_t own = exchange.first_row(state_.rank, count), end = exchange.first_row(state_.rank + 1, count);
        if (own != end) sampler_.sample(card, whole, exchange.n_vocab(), of_these.subspan(own, end - own), state_.stream.get());
    });
}

void CudaExecutor::end() {
    state_.settle_pages();
    state_.wait();
    if (state_.shared()) state_.exchange->check_patience();
    under_way_ = false;
    if (state_.choice != nullptr) state_.choice->end(*state_.cache);
    if (recorded_rows_ != 0) recordings_.set_warm(recording());
}

void CudaExecutor::density(std::span<float> out) const {
    if (state_.choice == nullptr) return Executor::density(out);
    state_.choice->density(out);
}

std::vector<uint32_t> CudaExecutor::selection() const {
    return state_.choice == nullptr ? std::vector<uint32_t>{} : state_.choice->selection();
}

}  // namespace dca::cuda
