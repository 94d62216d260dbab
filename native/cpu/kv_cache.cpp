#include "cpu/kv_cache.h"

#include <cstring>

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
        case CacheType::F16:
        case CacheType::BF16: break;
    }
    return 2;
}

}  // namespace

KvCache::KvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t context, dca_cache_type type)
    : type_(cache_type(type)),
      n_kv_heads_(n_kv_heads),
      heads_(size_t{n_layers} * n_kv_heads),
      token_bytes_(head_dim * element_bytes(type_)),
      capacity_((size_t{context} + panel_lanes - 1) / panel_lanes * panel_lanes),
      head_bytes_(capacity_ * token_bytes_) {
    keys_ = Buffer<std::byte>(heads_ * head_bytes_);
    values_ = Buffer<std::byte>(heads_ * head_bytes_);
    if (type_ == CacheType::Q8) {
        key_scales_ = Buffer<float>(heads_ * capacity_);
        value_scales_ = Buffer<float>(heads_ * capacity_);
    }
}

void KvCache::copy_from(const KvCache& other, uint32_t length) noexcept {
    // Keys lie in whole blocks; what the last one holds beyond `length` is not read before it is written.
    const size_t tokens = (size_t{length} + panel_lanes - 1) / panel_lanes * panel_lanes;
    for (size_t head = 0; head < heads_; ++head) {
        std::memcpy(keys_.data() + head * head_bytes_, other.keys_.data() + head * other.head_bytes_, tokens * token_bytes_);
        std::memcpy(values_.data() + head * head_bytes_, other.values_.data() + head * other.head_bytes_, length * token_bytes_);
        if (type_ != CacheType::Q8) continue;
        std::memcpy(key_scales_.data() + head * capacity_, other.key_scales_.data() + head * other.capacity_, length * sizeof(float));
        std::memcpy(value_scales_.data() + head * capacity_, other.value_scales_.data() + head * other.capacity_, length * sizeof(float));
    }
}

}  // namespace dca::cpu
