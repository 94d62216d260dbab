#include "cuda/kv_cache.h"

#include <algorithm>
#include <vector>

#include "core/engine/page_pool.h"

namespace dca::cuda {

template <class Visit>
void CudaKvCache::visit_page(uint32_t page, Visit visit) const {
    const CudaSession& s = *session_;
    for (const LayerCache& layer : s.memory.cache) {
        const bool scaled = layer.type == CacheType::Q8;
        for (size_t head = 0; head < s.h.n_kv_heads; ++head) {
            const size_t token = head * layer.capacity + size_t{page} * kPageTokens;
            // A cache may end inside its last page.
            const size_t room = std::min<size_t>(kPageTokens, layer.capacity - size_t{page} * kPageTokens);
            const auto part = [&](void* memory, size_t token_bytes) {
                visit(static_cast<std::byte*>(memory) + token * token_bytes, token_bytes, room);
            };
            part(layer.keys, size_t{s.h.head_dim} * (scaled ? 1 : 2));
            part(layer.values, size_t{s.h.head_dim} * (scaled ? 1 : 2));
            if (!scaled) continue;
            part(layer.key_scales, sizeof(uint16_t));
            part(layer.value_scales, sizeof(uint16_t));
        }
    }
}

void CudaKvCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) {
    const auto& other = static_cast<const CudaKvCache&>(source);
    check(cudaSetDevice(session_->device.ordinal), "selecting the card");
    check(cudaStreamSynchronize(other.session_->stream.get()), "running the model");  // this stream does not wait for that one
    std::vector<const std::byte*> parts;
    other.visit_page(from, [&](std::byte* memory, size_t, size_t) { parts.push_back(memory); });
    auto part = parts.begin();
    visit_page(to, [&](std::byte* memory, size_t token_bytes, size_t) {
        check(cudaMemcpyAsync(memory, *part++, tokens * token_bytes, cudaMemcpyDeviceToDevice, session_->stream.get()),
              "copying the cache");
    });
    session_->wait();  // the other cache may change after this
}

std::string CudaKvCache::layout() const {
    const LayerCache& layer = session_->memory.cache.front();
    const char* type = layer.type == CacheType::Q8 ? "q8 with f16 scales" : layer.type == CacheType::BF16 ? "bf16" : "f16";
    return std::string("cuda, ") + type + ", " + std::to_string(session_->h.n_layers * session_->h.n_kv_heads) + " heads of " +
           std::to_string(session_->h.head_dim);
}

uint64_t CudaKvCache::page_bytes() const {
    uint64_t bytes = 0;
    visit_page(0, [&](std::byte*, size_t token_bytes, size_t) { bytes += token_bytes * kPageTokens; });
    return bytes;
}

void CudaKvCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    check(cudaSetDevice(session_->device.ordinal), "selecting the card");
    std::fill_n(out, page_bytes(), std::byte{0});
    visit_page(page, [&](std::byte* memory, size_t token_bytes, size_t) {
        check(cudaMemcpyAsync(out, memory, tokens * token_bytes, cudaMemcpyDeviceToHost, session_->stream.get()), "reading the cache");
        out += token_bytes * kPageTokens;
    });
    session_->wait();
}

void CudaKvCache::load_page(uint32_t page, const std::byte* in) {
    check(cudaSetDevice(session_->device.ordinal), "selecting the card");
    visit_page(page, [&](std::byte* memory, size_t token_bytes, size_t room) {
        check(cudaMemcpyAsync(memory, in, room * token_bytes, cudaMemcpyHostToDevice, session_->stream.get()), "writing the cache");
        in += token_bytes * kPageTokens;
    });
    session_->wait();
}

}  // namespace dca::cuda
