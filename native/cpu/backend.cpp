// The CPU backend: kernels for this machine, one thread pool, weights straight from the mapped file.
#include <algorithm>
#include <string>

#include "core/machine/available_memory.h"
#include "core/backend/backend.h"
#include "core/error.h"
#include "core/engine/page_pool.h"
#include "core/machine/parallel.h"
#include "core/text.h"
#include "cpu/executor/executor.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/packed_weights.h"
#include "cpu/thread_pool.h"

namespace dca {

namespace cpu {
namespace {

class CpuBackend final : public Backend {
public:
    explicit CpuBackend(const BackendSource& source)
        : hparams_(source.hparams),
          weights_(source.weights),
          kernels_(cpu_kernels(chosen_isa())),
          pool_(source.threads > 0 ? source.threads : usable_cores()) {
        if (hparams_.head_dim % 16 != 0 || hparams_.head_dim > kMaxHeadDim) {
            fail(DCA_ERROR_UNSUPPORTED, "head size is ", hparams_.head_dim, ", the CPU backend runs multiples of 16 up to ", kMaxHeadDim);
        }
        if (source.repack) packed_ = PackedWeights(source, kernels_.packed != nullptr);
    }

    std::string description() const override {
        return std::string("cpu (") + kernels_.name + ", " + std::to_string(pool_.threads()) +
               (pool_.threads() == 1 ? " thread)" : " threads)");
    }

    uint64_t repacked_bytes() const override { return packed_.bytes(); }

    std::string refuses(const PrefillSpec&, dca_cache_type type) const override {
        return type == DCA_CACHE_Q4 ? refuses_q4(hparams_.head_dim) : "";
    }

    Parts make_engine(EngineSpec spec) override {
        check_memory(spec);
        auto cache = std::make_unique<CpuKvCache>(hparams_.n_layers, hparams_.n_kv_heads, hparams_.head_dim, spec.tokens, spec.cache_type,
                                                  spec.prefill.sparse, CpuExecutor::rows_of(spec));
        auto executor = std::make_unique<CpuExecutor>(hparams_, weights_, packed_, kernels_, pool_, *cache, std::move(spec));
        return {std::move(cache), std::move(executor)};
    }

private:
    void check_memory(const EngineSpec& spec) const {
        const auto cache_bytes = [&](uint64_t tokens, dca_cache_type type) {
            return CpuKvCache::bytes_for(hparams_.n_layers, hparams_.n_kv_heads, hparams_.head_dim, tokens, type, spec.prefill.sparse);
        };
        const uint32_t rows = CpuExecutor::rows_of(spec);
        const uint64_t work = CpuExecutor::bytes_for(hparams_, rows) + spec.window_rope.bytes();
        const uint64_t cache = cache_bytes(spec.tokens, spec.cache_type);
        const uint64_t table = spec.rope.bytes();
        const uint64_t available = available_memory();
        if (cache + work + table <= available) return;
        // Without chunks there is a rotation for every token; the positions of a scheme are few and stay the same.
        const uint64_t fixed = work + (spec.scheme.endless() ? 0 : table);
        const uint64_t table_page = spec.scheme.endless() ? table / spec.tokens * kPageTokens : 0;
        const uint64_t room = available - std::min(available, fixed);
        const auto fitting = [&](dca_cache_type type) { return room / (cache_bytes(kPageTokens, type) + table_page) * kPageTokens; };
        const uint64_t most = fitting(spec.cache_type);
        throw RoomError(most, message_from("a ", spec.room, " of ", spec.tokens, " tokens takes ", gigabytes(cache), " of cache and ",
                                           gigabytes(work + table), " of work space, ", gigabytes(available), " are available: room for ",
                                           most, " tokens", smaller_caches(spec, hparams_.head_dim, fitting)));
    }

    const Hparams& hparams_;
    const Weights& weights_;
    PackedWeights packed_;
    const Kernels& kernels_;
    ThreadPool pool_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(const BackendSource& source) { return std::make_unique<cpu::CpuBackend>(source); }

}  // namespace dca
