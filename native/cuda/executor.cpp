#include "cuda/executor.h"

#include <algorithm>
#include <cstring>

#include "core/forward.h"
#include "cuda/weights/kernels.h"

namespace dca::cuda {

CudaExecutor::CudaExecutor(const Hparams& hparams, const DeviceWeights& weights, const Device& device, const ExecutorOptions& options)
    : session_(hparams, weights, device, options), block_(session_), row_(session_) {}

CudaExecutor::~CudaExecutor() { static_cast<void>(cudaStreamSynchronize(session_.stream.get())); }

void CudaExecutor::copy_cache(const Executor& from, uint32_t length) {
    const auto& other = static_cast<const CudaExecutor&>(from);
    check(cudaSetDevice(session_.device.ordinal), "selecting the card");
    check(cudaStreamSynchronize(other.session_.stream.get()), "running the model");  // this session's stream does not wait for that one
    for (uint32_t layer = 0; layer < session_.h.n_layers; ++layer) {
        const LayerCache& to = session_.memory.cache[layer];
        const LayerCache& source = other.session_.memory.cache[layer];
        const auto copy = [&](void* into, const void* out_of, size_t token_bytes) {
            for (size_t head = 0; head < session_.h.n_kv_heads; ++head) {
                check(cudaMemcpyAsync(static_cast<std::byte*>(into) + head * to.capacity * token_bytes,
                                      static_cast<const std::byte*>(out_of) + head * source.capacity * token_bytes, length * token_bytes,
                                      cudaMemcpyDeviceToDevice, session_.stream.get()),
                      "copying the cache");
            }
        };
        const bool scaled = to.type == CacheType::Q8;
        copy(to.keys, source.keys, size_t{session_.h.head_dim} * (scaled ? 1 : 2));
        copy(to.values, source.values, size_t{session_.h.head_dim} * (scaled ? 1 : 2));
        if (!scaled) continue;
        copy(to.key_scales, source.key_scales, sizeof(uint16_t));
        copy(to.value_scales, source.value_scales, sizeof(uint16_t));
    }
    check(cudaStreamSynchronize(session_.stream.get()), "copying the cache");  // the other session may change after this
}

void CudaExecutor::keep_rows(uint32_t rows) {
    session_.rows = rows;
    step_ = rows == 1 ? static_cast<Step*>(&row_) : &block_;
}

void CudaExecutor::prepare_step(std::span<const int32_t> tokens, uint32_t start) {
    check(cudaSetDevice(session_.device.ordinal), "selecting the card");
    std::ranges::copy(tokens, session_.memory.tokens);
    *session_.memory.start = start;
    session_.first_row = 0;
    session_.start = start;
    keep_rows(static_cast<uint32_t>(tokens.size()));
}

bool CudaExecutor::replay(std::span<const int32_t> tokens, uint32_t start, uint32_t wanted) {
    using Recording = RowStep::Recording;
    if (tokens.size() != 1 || wanted != 1 || row_.recording() == Recording::Cold || row_.recording() == Recording::UnderWay) return false;
    if (row_.recording() == Recording::Warm) {
        check(cudaSetDevice(session_.device.ordinal), "selecting the card");
        row_.record([&] { forward(*this, session_.h, tokens, start, 1); });
    }
    prepare_step(tokens, start);
    row_.play();
    return true;
}

void CudaExecutor::begin(std::span<const int32_t> tokens, uint32_t start) {
    prepare_step(tokens, start);
    row_.begin(tokens.size() == 1);
    const SessionMemory& m = session_.memory;
    const EmbedArgs args{session_.weights.token_embedding(), m.tokens, m.start, session_.rows, m.x, m.length};
    check(embed(args, session_.stream.get()), "embedding tokens");
}

void CudaExecutor::keep_last_rows(uint32_t rows) {
    const uint32_t dropped = session_.rows - rows;
    session_.first_row += dropped;
    session_.start += dropped;
    keep_rows(rows);
}

void CudaExecutor::nll(std::span<const int32_t> targets, float* out) {
    std::ranges::copy(targets, session_.memory.targets);
    step_->nll(static_cast<uint32_t>(targets.size()));
    session_.wait();
    std::memcpy(out, session_.memory.nll, targets.size() * sizeof(float));
}

}  // namespace dca::cuda
