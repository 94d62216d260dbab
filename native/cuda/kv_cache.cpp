#include "cuda/kv_cache.h"

#include <cstring>

#include "core/error.h"

namespace dca::cuda {

namespace {

size_t value_bytes(CacheType type) noexcept { return type == CacheType::Q8 ? 1 : 2; }

}  // namespace

CacheType supported_cache(dca_cache_type type) {
    if (type == DCA_CACHE_F32) fail(DCA_ERROR_UNSUPPORTED, "cache_type is f32, must be f16, bf16 or q8 on a CUDA device");
    return static_cast<CacheType>(type);
}

uint64_t CudaKvCache::bytes_for(const Hparams& h, uint64_t tokens, CacheType type, bool with_means) {
    const uint64_t token = h.head_dim * value_bytes(type) + (type == CacheType::Q8 ? sizeof(uint16_t) : 0);
    const uint64_t page = kPageTokens * 2 * h.n_layers * h.n_kv_heads * token;
    return pages_for(tokens) * (page + (with_means ? PageMeans::page_bytes(h) : 0));
}

CudaKvCache::CudaKvCache(const Hparams& h, const Device& device, uint32_t tokens, CacheType type, bool with_means)
    : device_(device),
      n_layers_(h.n_layers),
      n_kv_heads_(h.n_kv_heads),
      head_dim_(h.head_dim),
      pages_(pages_for(tokens) + 1),
      type_(type),
      memory_(allocate_device(bytes_for(h, tokens, type) + bytes_for(h, 1, type), "allocating the cache")),
      means_(with_means ? std::make_unique<PageMeans>(h, pages_) : nullptr),
      stream_(make_stream()) {
    const std::vector<Tensors> all = tensors();
    for (uint32_t layer = 0; layer < n_layers_; ++layer) {
        const auto tensor = [&](size_t kind, size_t number) { return kind < all.size() ? at(all[kind], 2 * layer + number, 0) : nullptr; };
        layers_.push_back({.keys = tensor(0, 0),
                           .values = tensor(0, 1),
                           .key_scales = tensor(1, 0),
                           .value_scales = tensor(1, 1),
                           .pages = pages_,
                           .type = type_});
    }
}

std::vector<CudaKvCache::Tensors> CudaKvCache::tensors() const {
    const size_t rows = size_t{n_kv_heads_} * kPageTokens, count = size_t{2} * n_layers_;
    const size_t token_bytes = head_dim_ * value_bytes(type_);
    std::vector<Tensors> all{{0, count, token_bytes, rows * token_bytes}};
    if (type_ == CacheType::Q8) all.push_back({count * pages_ * all.front().page_bytes, count, sizeof(uint16_t), rows * sizeof(uint16_t)});
    return all;
}

// A page is copied whole: what lies past its tokens is not read before it is written.
void CudaKvCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t) {
    const auto& other = static_cast<const CudaKvCache&>(source);
    if (means_ != nullptr) means_->set_current(to, false);
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    const std::vector<Tensors> here = tensors(), there = other.tensors();
    for (size_t kind = 0; kind < here.size(); ++kind) {
        for (size_t number = 0; number < here[kind].count; ++number) {
            check(cudaMemcpyAsync(at(here[kind], number, to), other.at(there[kind], number, from), here[kind].page_bytes,
                                  cudaMemcpyDeviceToDevice, stream_.get()),
                  "copying the cache");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "copying the cache");  // the executor's stream does not wait for this one
}

std::string CudaKvCache::layout() const {
    const char* type = type_ == CacheType::Q8 ? "q8 with f16 scales" : type_ == CacheType::BF16 ? "bf16" : "f16";
    return std::string("cuda, ") + type + ", " + std::to_string(n_layers_) + " layers of " + std::to_string(n_kv_heads_) + " heads of " +
           std::to_string(head_dim_);
}

uint64_t CudaKvCache::page_bytes() const {
    uint64_t bytes = 0;
    for (const Tensors& of : tensors()) bytes += of.count * of.page_bytes;
    return bytes;
}

void CudaKvCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    std::byte* to = out;
    for (const Tensors& of : tensors()) {
        for (size_t number = 0; number < of.count; ++number, to += of.page_bytes) {
            check(cudaMemcpyAsync(to, at(of, number, page), of.page_bytes, cudaMemcpyDeviceToHost, stream_.get()), "reading the cache");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "reading the cache");
    to = out;
    for (const Tensors& of : tensors()) {
        for (size_t head = 0; head < of.count * n_kv_heads_; ++head, to += kPageTokens * of.token_bytes) {
            std::memset(to + tokens * of.token_bytes, 0, (kPageTokens - tokens) * of.token_bytes);
        }
    }
}

void CudaKvCache::load_page(uint32_t page, const std::byte* in) {
    if (means_ != nullptr) means_->set_current(page, false);
    check(cudaSetDevice(device_.ordinal), "selecting the card");
    for (const Tensors& of : tensors()) {
        for (size_t number = 0; number < of.count; ++number, in += of.page_bytes) {
            check(cudaMemcpyAsync(at(of, number, page), in, of.page_bytes, cudaMemcpyHostToDevice, stream_.get()), "writing the cache");
        }
    }
    check(cudaStreamSynchronize(stream_.get()), "writing the cache");
}

}  // namespace dca::cuda
