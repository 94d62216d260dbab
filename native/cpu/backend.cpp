// The CPU backend: kernels for this machine, one thread pool, weights straight from the mapped file.
#include <string>

#include "core/backend.h"
#include "core/error.h"
#include "core/parallel.h"
#include "cpu/executor.h"
#include "cpu/kernels.h"
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
        if (hparams_.head_dim % 16 != 0 || hparams_.head_dim > max_head_dim) {
            fail(DCA_ERROR_UNSUPPORTED, "head size is ", hparams_.head_dim, ", the CPU backend runs multiples of 16 up to ", max_head_dim);
        }
        if (source.repack) packed_ = PackedWeights(source, kernels_.packed != nullptr);
    }

    std::string description() const override {
        return std::string("cpu (") + kernels_.name + ", " + std::to_string(pool_.threads()) +
               (pool_.threads() == 1 ? " thread)" : " threads)");
    }

    uint64_t repacked_bytes() const override { return packed_.bytes(); }

    std::unique_ptr<Executor> make_executor(ExecutorOptions options) override {
        return std::make_unique<CpuExecutor>(hparams_, weights_, packed_, kernels_, pool_, std::move(options));
    }

private:
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
