// A model whose layers are shared out: every rank takes the residual stream from the one before and goes on.
#include <algorithm>
#include <utility>

#include "core/ranks/group.h"
#include "core/ranks/group_cache.h"
#include "core/ranks/prefill_record.h"
#include "core/ranks/shard.h"

namespace dca {

namespace {

class ChainExecutor final : public Executor {
public:
    ChainExecutor(const Hparams& hparams, const std::vector<Run>& layers, std::vector<std::unique_ptr<Executor>> ranks)
        : hparams_(hparams), layers_(layers), ranks_(std::move(ranks)) {}
    ~ChainExecutor() override {
        // Each reads from the one before it.
        while (!ranks_.empty()) ranks_.pop_back();
    }

    uint32_t max_rows() const override {
        return (*std::ranges::min_element(ranks_, {}, [](const auto& rank) { return rank->max_rows(); }))->max_rows();
    }
    uint32_t max_slices() const override {
        return (*std::ranges::min_element(ranks_, {}, [](const auto& rank) { return rank->max_slices(); }))->max_slices();
    }
    uint64_t scratch_bytes() const override {
        uint64_t bytes = 0;
        for (const auto& rank : ranks_) bytes += rank->scratch_bytes();
        return bytes;
    }

    void run(const Batch& batch) override {
        for (const auto& rank : ranks_) rank->run(batch);
    }
    void logits(std::span<float* const> out) override { ranks_.back()->logits(out); }
    void score(std::span<const int32_t> targets, TokenScore* out) override { ranks_.back()->score(targets, out); }
    void sample(std::span<SampleRequest* const> requests) override { ranks_.back()->sample(requests); }
    void end() override {
        for (const auto& rank : ranks_) rank->end();
    }

    void density(std::span<float> out) const override { gather_density(records(), hparams_.n_heads, out); }
    std::vector<uint32_t> selection() const override { return gather_selection(records()); }

private:
    std::vector<RankRecord> records() const {
        std::vector<RankRecord> records;
        for (size_t rank = 0; rank < ranks_.size(); ++rank) records.push_back({*ranks_[rank], layers_[rank], {0, hparams_.n_heads}});
        return records;
    }

    const Hparams& hparams_;
    const std::vector<Run>& layers_;  // by rank, as the executors
    std::vector<std::unique_ptr<Executor>> ranks_;
};

class ChainBackend final : public Backend {
public:
    ChainBackend(const BackendSource& source, GroupMachine machine)
        : hparams_(source.hparams), machine_(std::move(machine)), parts_(split_layers(source.hparams, machine_.shares)) {
        for (const Run& layers : parts_) shards_.push_back(layers_of(source.hparams, source.weights, layers));
        for (size_t rank = 0; rank < parts_.size(); ++rank) {
            const BackendSource own{shards_[rank].hparams, shards_[rank].weights, source.threads,
                                    source.repack,         source.progress,       source.user};
            backends_.push_back(machine_.make_rank(static_cast<uint32_t>(rank), own));
        }
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
        std::vector<GroupCache::Part> caches;
        std::vector<std::unique_ptr<Executor>> executors;
        for (size_t rank = 0; rank < backends_.size(); ++rank) {
            EngineSpec own = spec;
            own.prefill = shards_[rank].prefill(spec.prefill);
            own.link = {.rank = static_cast<uint32_t>(rank),
                        .previous = rank == 0 ? nullptr : executors.back().get(),
                        .last = rank + 1 == backends_.size()};
            Parts made = backends_[rank]->make_engine(std::move(own));
            caches.push_back({std::move(made.cache), parts_[rank], {0, hparams_.n_kv_heads}});
            executors.push_back(std::move(made.executor));
        }
        return {std::make_unique<GroupCache>(hparams_, std::move(caches)),
                std::make_unique<ChainExecutor>(hparams_, parts_, std::move(executors))};
    }

private:
    const Hparams& hparams_;
    GroupMachine machine_;
    std::vector<Run> parts_;  // layers by rank, as the rest
    std::vector<Shard> shards_;
    std::vector<std::unique_ptr<Backend>> backends_;
};

}  // namespace

std::unique_ptr<Backend> make_chain_backend(const BackendSource& source, GroupMachine machine) {
    return std::make_unique<ChainBackend>(source, std::move(machine));
}

}  // namespace dca
