// A device that can be lost: the CPU's backend, of which any call can fail. The linker (--wrap) sends the library's
// make_cpu_backend here.
#include <memory>
#include <string>
#include <utility>

#include "core/backend/backend.h"
#include "core/backend/forward.h"
#include "core/backend/operations.h"
#include "core/error.h"
#include "faults/faults.h"

namespace {

using namespace dca;

void lose() {
    if (fault::fails(fault::device)) fail(DCA_ERROR_DEVICE, "the device was lost");
}

class LostCache final : public KvCache {
public:
    explicit LostCache(std::unique_ptr<KvCache> cache) : cache_(std::move(cache)) {}

    uint64_t bytes() const override { return cache_->bytes(); }
    void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) override {
        lose();
        cache_->copy_page(to, *static_cast<const LostCache&>(source).cache_, from, tokens);
    }
    std::string layout(const Hparams& whole) const override { return cache_->layout(whole); }
    uint64_t page_bytes() const override { return cache_->page_bytes(); }
    std::vector<PageSection> sections() const override { return cache_->sections(); }
    void save_page(uint32_t page, uint32_t tokens, std::byte* out) const override {
        lose();
        cache_->save_page(page, tokens, out);
    }
    void load_page(uint32_t page, const std::byte* in) override {
        lose();
        cache_->load_page(page, in);
    }
    uint64_t start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override {
        lose();
        return cache_->start_saving(pages, memory);
    }
    uint64_t start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override {
        lose();
        return cache_->start_loading(pages, memory);
    }

private:
    std::unique_ptr<KvCache> cache_;
};

class LostExecutor final : public Executor, public Operations {
public:
    LostExecutor(std::unique_ptr<Executor> executor, const Hparams& hparams)
        : executor_(std::move(executor)), operations_(dynamic_cast<Operations&>(*executor_)), hparams_(hparams) {}

    Executor& whole() noexcept { return *executor_; }
    uint32_t max_rows() const override { return executor_->max_rows(); }
    uint32_t max_slices() const override { return executor_->max_slices(); }
    uint64_t scratch_bytes() const override { return executor_->scratch_bytes(); }

    bool collect(ColumnSquares& squares) override { return lose(), executor_->collect(squares); }
    void run(const Batch& batch) override { forward(*this, hparams_, batch); }
    bool replay(const Batch& batch) override { return lose(), operations_.replay(batch); }
    void begin(const Batch& batch) override { lose(), operations_.begin(batch); }
    void project_qkv(uint32_t layer) override { lose(), operations_.project_qkv(layer); }
    void store_keys_values(uint32_t layer) override { lose(), operations_.store_keys_values(layer); }
    void keep_wanted_rows() override { lose(), operations_.keep_wanted_rows(); }
    void attend(uint32_t layer) override { lose(), operations_.attend(layer); }
    void project_output(uint32_t layer) override { lose(), operations_.project_output(layer); }
    void feed_forward(uint32_t layer) override { lose(), operations_.feed_forward(layer); }
    void feed_forward_experts(uint32_t layer) override { lose(), operations_.feed_forward_experts(layer); }
    void logits(std::span<float* const> out) override { lose(), executor_->logits(out); }
    void score(std::span<const int32_t> targets, TokenScore* out) override { lose(), executor_->score(targets, out); }
    void sample(std::span<SampleRequest* const> requests) override { lose(), executor_->sample(requests); }
    void end() override { lose(), executor_->end(); }

private:
    std::unique_ptr<Executor> executor_;
    Operations& operations_;
    const Hparams& hparams_;
};

class LostBackend final : public Backend {
public:
    LostBackend(std::unique_ptr<Backend> backend, const Hparams& hparams) : backend_(std::move(backend)), hparams_(hparams) {}

    std::string description() const override { return backend_->description(); }
    uint64_t repacked_bytes() const override { return backend_->repacked_bytes(); }
    Parts make_engine(EngineSpec spec) override {
        lose();
        if (spec.link.previous != nullptr) spec.link.previous = &static_cast<LostExecutor*>(spec.link.previous)->whole();
        Parts parts = backend_->make_engine(std::move(spec));
        auto cache = std::make_unique<LostCache>(std::move(parts.cache));
        auto executor = std::make_unique<LostExecutor>(std::move(parts.executor), hparams_);
        return {std::move(cache), std::move(executor)};
    }

private:
    std::unique_ptr<Backend> backend_;
    const Hparams& hparams_;
};

}  // namespace

// The linker's names of dca::make_cpu_backend(const dca::BackendSource&), replaced and real (Itanium C++ ABI).
std::unique_ptr<Backend> real_make_cpu_backend(const BackendSource& source) __asm__(
    "__real__ZN3dca16make_cpu_backendERKNS_13BackendSourceE");
std::unique_ptr<Backend> wrapped_make_cpu_backend(const BackendSource& source) __asm__(
    "__wrap__ZN3dca16make_cpu_backendERKNS_13BackendSourceE");

std::unique_ptr<Backend> wrapped_make_cpu_backend(const BackendSource& source) {
    lose();
    return std::make_unique<LostBackend>(real_make_cpu_backend(source), source.hparams);
}
