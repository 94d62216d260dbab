// The CUDA backend, and the one symbol that libdca looks for in this library.
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/backend/backend.h"
#include "core/backend/device_name.h"
#include "core/error.h"
#include "cuda/attention/kernels.h"
#include "cuda/device/check.h"
#include "cuda/device/device.h"
#include "cuda/executor.h"
#include "cuda/kv_cache.h"
#include "cuda/experts/router.h"
#include "cuda/ranks/backend.h"
#include "cuda/refusals.h"
#include "cuda/weights/weights.h"

namespace dca::cuda {
namespace {

constexpr uint32_t kMostHeadDim = 256;

void check_model(const Hparams& h) {
    if (h.head_dim % 2 != 0 || h.head_dim > kMostHeadDim) {
        fail(DCA_ERROR_UNSUPPORTED, "head size is ", h.head_dim, ", the CUDA backend runs even ones up to ", kMostHeadDim);
    }
    const bool mixture = h.n_experts > 0;
    if (h.n_experts > kMostExperts)
        fail(DCA_ERROR_UNSUPPORTED, "there are ", h.n_experts, " experts, the CUDA backend runs up to ", kMostExperts);
    for (const auto& [name, width] : {std::pair{"model", h.n_embd},
                                      {"feed-forward", mixture ? h.n_ff_expert : h.n_ff},
                                      {"shared expert's", h.n_ff_shared},
                                      {"query", h.q_width()},
                                      {"key", h.kv_width()}}) {
        if (width % 8 != 0) fail(DCA_ERROR_UNSUPPORTED, name, " width is ", width, ", the CUDA backend runs multiples of 8");
    }
}

class CudaBackend final : public Backend {
public:
    CudaBackend(const BackendSource& source, int ordinal) : hparams_(checked(source)), device_(open_device(ordinal)), weights_(source) {
        weights_.visit_products([&](const Matrix& w) {
            if (!matvec_takes(device_.card, w)) {
                fail(DCA_ERROR_UNSUPPORTED, "a matrix of ", w.rows, " x ", w.cols, " is wider than the kernels for ", device_.description,
                     " take");
            }
        });
    }

    std::string description() const override { return device_.description; }

    std::string refuses(const PrefillSpec& prefill, dca_cache_type cache) const override {
        if (const std::string why = cache == DCA_CACHE_Q4 ? refuses_q4(hparams_.head_dim) : ""; !why.empty()) return why;
        AttentionShape shape{};
        shape.head_dim = static_cast<int32_t>(hparams_.head_dim);
        shape.rotary_dim = static_cast<int32_t>(hparams_.rotary_dim);
        if (prefill.chooses() && !fast_shape(shape))
            return std::string(prefill.sparse ? "sparse prefill" : "stated budgets") +
                   " on a CUDA device takes head sizes of 64, 80, 96, 128 and 256 of which a multiple of 8 is rotated, "
                   "this model's is " +
                   std::to_string(hparams_.head_dim) + " with " + std::to_string(hparams_.rotary_dim) +
                   " rotated; use prefill dense, or the device cpu";
        return Backend::refuses({}, cache);
    }

    Parts make_engine(EngineSpec spec) override {
        check(cudaSetDevice(device_.ordinal), "selecting the card");
        auto state = std::make_unique<StepState>(hparams_, weights_, device_, spec);  // checks that the cache fits beside it
        auto cache = std::make_unique<CudaKvCache>(hparams_, device_, spec.tokens, supported_cache(spec.cache_type), spec.prefill.sparse,
                                                   state->memory.block, state->memory.slices);
        auto executor = std::make_unique<CudaExecutor>(std::move(state), *cache, spec.link);
        return {std::move(cache), std::move(executor)};
    }

private:
    static const Hparams& checked(const BackendSource& source) {
        check_model(source.hparams);
        check_supported(source.hparams);
        return source.hparams;
    }

    const Hparams& hparams_;
    Device device_;
    DeviceWeights weights_;
};

}  // namespace

std::unique_ptr<Backend> make_card_backend(const BackendSource& source, int ordinal) {
    return std::make_unique<CudaBackend>(source, ordinal);
}

}  // namespace dca::cuda

extern "C" __attribute__((visibility("default"))) dca::Backend* dca_cuda_make_backend(const char* version, const dca::BackendSource& source,
                                                                                      const dca::DeviceName& device) {
    if (std::string_view(version) != DCA_VERSION) {
        dca::fail(DCA_ERROR_DEVICE, "libdca_cuda is version ", DCA_VERSION, ", libdca is ", version, "; install both from one build");
    }
    if (device.ranks() == 1) return dca::cuda::make_card_backend(source, device.cards.front()).release();
    return dca::cuda::make_cards_backend(source, device).release();
}
