#include "cpu/kv_cache.h"

namespace dca::cpu {

namespace {

CacheType cache_type(dca_cache_type type) noexcept {
    switch (type) {
        case DCA_CACHE_F32: return CacheType::F32;
        case DCA_CACHE_BF16: return CacheType::BF16;
        case DCA_CACHE_Q8: return CacheType::Q8;
        case DCA_CACHE_F16: break;
    }
    return CacheType::F16;
}

size_t element_bytes(CacheType type) noexcept {
    switch (type) {
        case CacheType::F32: return 4;
        case CacheType::Q8: return 1;
        case CacheType::F16: case CacheType::BF16: break;
    }
    return 2;
}

}  // namespace

KvCache::KvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t context, dca_cache_type type)
    : type_(cache_type(type)),
      n_kv_heads_(n_kv_heads),
      capacity_((size_t{context} + panel_lanes - 1) / panel_lanes * panel_lanes),
      head_bytes_(capacity_ * head_dim * element_bytes(type_)) {
    const size_t heads = size_t{n_layers} * n_kv_heads;
    keys_ = Buffer<std::byte>(heads * head_bytes_);
    values_ = Buffer<std::byte>(heads * head_bytes_);
    if (type_ == CacheType::Q8) {
        key_scales_ = Buffer<float>(heads * capacity_);
        value_scales_ = Buffer<float>(heads * capacity_);
    }
}

}  // namespace dca::cpu
