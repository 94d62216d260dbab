#include "core/ranks/group.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "core/ranks/group_cache.h"
#include "core/ranks/prefill_record.h"
#include "core/ranks/threads.h"
#include "core/ranks/shard.h"
#include "core/error.h"

namespace dca {

namespace {

/// Whose step is on the machine. Two at once could wait for each other for ever: on one card the first holds what the second
/// needs to go on, on another the second what the first needs.
struct Turn {
    std::mutex mutex;
    Exchange* of = nullptr;

    void take(Exchange& exchange) {
        if (of != nullptr && of != &exchange) of->settle();
        of = &exchange;
    }
};

/// Of all groups of the process: they may be on the same cards.
Turn& turn() {
    static Turn only;
    return only;
}

/// A step on all ranks at once.
class GroupExecutor final : public Executor {
public:
    GroupExecutor(const Hparams& hparams, const std::vector<RankPart>& parts, RankThreads& threads, std::unique_ptr<Exchange> exchange,
                  std::vector<std::unique_ptr<Executor>> ranks)
        : hparams_(hparams), parts_(parts), threads_(threads), exchange_(std::move(exchange)), ranks_(std::move(ranks)) {}
    ~GroupExecutor() override {
        const std::lock_guard lock(turn().mutex);
        exchange_->settle();
        if (turn().of == exchange_.get()) turn().of = nullptr;
    }

    uint32_t max_rows() const override { return least(&Executor::max_rows); }
    uint32_t max_slices() const override { return least(&Executor::max_slices); }
    uint64_t scratch_bytes() const override {
        uint64_t bytes = 0;
        for (const auto& rank : ranks_) bytes += rank->scratch_bytes();
        return bytes;
    }

    void run(const Batch& batch) override {
        on_all([&](uint32_t rank) { ranks_[rank]->run(batch); });
    }

    void logits(std::span<float* const> out) override {
        on_all([&](uint32_t rank) {
            std::vector<float*> own(out.begin(), out.end());
            for (float*& row : own) row += exchange_->first_token(rank);
            ranks_[rank]->logits(own);
        });
    }

    void score(std::span<const int32_t> targets, TokenScore* out) override {
        std::vector<std::vector<TokenScore>> parts(ranks_.size(), std::vector<TokenScore>(targets.size()));
        on_all([&](uint32_t rank) {
            const auto first = static_cast<int32_t>(exchange_->first_token(rank)),
                       end = static_cast<int32_t>(exchange_->first_token(rank + 1));
            std::vector<int32_t> own(targets.begin(), targets.end());
            for (int32_t& target : own) target = target >= first && target < end ? target - first : -1;
            ranks_[rank]->score(own, parts[rank].data());
        });
        std::vector<TokenScore> of_row(ranks_.size());
        for (size_t row = 0; row < targets.size(); ++row) {
            std::ranges::transform(parts, of_row.begin(), [row](const auto& part) { return part[row]; });
            out[row] = combined(of_row);
        }
    }

    void sample(std::span<SampleRequest* const> requests) override {
        on_all([&](uint32_t rank) { ranks_[rank]->sample(requests); });
    }

    void end() override {
        on_all([&](uint32_t rank) { ranks_[rank]->end(); });
    }

    void density(std::span<float> out) const override { gather_density(records(), hparams_.n_heads, out); }
    std::vector<uint32_t> selection() const override { return gather_selection(records()); }

private:
    std::vector<RankRecord> records() const {
        std::vector<RankRecord> records;
        for (size_t rank = 0; rank < ranks_.size(); ++rank) records.push_back({*ranks_[rank], {0, hparams_.n_layers}, parts_[rank].heads});
        return records;
    }

    uint32_t least(uint32_t (Executor::*of)() const) const {
        uint32_t least = UINT32_MAX;
        for (const auto& rank : ranks_) least = std::min(least, (rank.get()->*of)());
        return least;
    }

    /// Where a rank fails, the others stop waiting for it, and the next step starts afresh, or never where the machine is lost.
    template <class Work>
    void on_all(Work&& work) {
        const std::lock_guard lock(turn().mutex);
        turn().take(*exchange_);
        if (broken_)
            fail(DCA_ERROR_DEVICE, "the engine cannot go on (a new one can where the cards answer) since a step failed: ", *broken_);
        try {
            threads_.run(work, [this] { exchange_->abort(); });
        } catch (...) {
            try {
                exchange_->reset();
            } catch (const Error& error) {
                broken_ = error.what();
            }
            throw;
        }
    }

    const Hparams& hparams_;
    const std::vector<RankPart>& parts_;  // by rank, as the executors
    RankThreads& threads_;
    std::unique_ptr<Exchange> exchange_;
    std::vector<std::unique_ptr<Executor>> ranks_;
    std::optional<std::string> broken_;
};

class GroupBackend final : public Backend {
public:
    GroupBackend(const BackendSource& source, GroupMachine machine)
        : hparams_(source.hparams),
          machine_(std::move(machine)),
          parts_(split_model(source.hparams, source.weights, machine_.shares)),
          threads_(static_cast<uint32_t>(parts_.size())),
          backends_(parts_.size()) {
        for (const RankPart& part : parts_) shards_.push_back(shard_of(source.hparams, source.weights, part, shards_.empty()));
        threads_.run([&](uint32_t rank) {
            // The caller's thread is rank 0's, so only there is its progress called.
            const BackendSource own{shards_[rank].hparams,
                                    shards_[rank].weights,
                                    source.threads,
                                    source.repack,
                                    rank == 0 ? source.progress : nullptr,
                                    source.user};
            backends_[rank] = machine_.make_rank(rank, own);
        });
    }

    std::string description() const override { return machine_.describe(backends_.front()->description()); }

    uint64_t repacked_bytes() const override {
        uint64_t bytes = 0;
        for (const auto& backend : backends_) bytes += backend->repacked_bytes();
        return bytes;
    }

    std::string refuses(const PrefillSpec& prefill, dca_cache_type cache) const override {
        return backends_.front()->refuses(prefill, cache);
    }

    Parts make_engine(EngineSpec spec) override {
        std::vector<uint32_t> vocabulary{0};
        for (const RankPart& part : parts_) vocabulary.push_back(part.vocabulary.end());
        std::unique_ptr<Exchange> exchange = machine_.make_exchange(std::move(vocabulary));
        std::vector<Parts> made(parts_.size());
        std::vector<std::optional<RoomError>> refused(parts_.size());
        threads_.run([&](uint32_t rank) {
            EngineSpec own = spec;
            own.link = {.rank = rank, .exchange = exchange.get()};
            own.prefill = shards_[rank].prefill(spec.prefill);
            try {
                made[rank] = backends_[rank]->make_engine(std::move(own));
            } catch (const RoomError& error) {
                refused[rank] = error;
            }
        });
        // There is room for what the smallest of them has room for.
        std::optional<RoomError> least;
        for (const std::optional<RoomError>& error : refused) {
            if (error && (!least || error->tokens() < least->tokens())) least = error;
        }
        if (least) throw *least;
        exchange->connect();
        std::vector<GroupCache::Part> caches;
        std::vector<std::unique_ptr<Executor>> executors;
        for (size_t rank = 0; rank < made.size(); ++rank) {
            caches.push_back({std::move(made[rank].cache), {0, hparams_.n_layers}, parts_[rank].kv_heads});
            executors.push_back(std::move(made[rank].executor));
        }
        return {std::make_unique<GroupCache>(hparams_, std::move(caches)),
                std::make_unique<GroupExecutor>(hparams_, parts_, threads_, std::move(exchange), std::move(executors))};
    }

private:
    const Hparams& hparams_;
    GroupMachine machine_;
    std::vector<RankPart> parts_;  // by rank, as the rest
    std::vector<Shard> shards_;
    RankThreads threads_;
    std::vector<std::unique_ptr<Backend>> backends_;
};

}  // namespace

std::unique_ptr<Backend> make_group_backend(const BackendSource& source, GroupMachine machine) {
    return std::make_unique<GroupBackend>(source, std::move(machine));
}

}  // namespace dca
