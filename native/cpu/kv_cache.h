// One session's keys and values on the CPU, in the layout that kernels.h's CacheView states.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "dca.h"

namespace dca::cpu {

class KvCache {
public:
    KvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t context, dca_cache_type type);

    /// Copies the first `length` tokens of another cache of the same type and model. Both have room for them.
    void copy_from(const KvCache& other, uint32_t length) noexcept;

    CacheType type() const noexcept { return type_; }
    uint64_t bytes() const noexcept { return keys_.bytes() + values_.bytes() + key_scales_.bytes() + value_scales_.bytes(); }

    CacheView view(uint32_t layer, uint32_t kv_head) const noexcept {
        const size_t head = size_t{layer} * n_kv_heads_ + kv_head;
        return {keys_.data() + head * head_bytes_, values_.data() + head * head_bytes_, scales(key_scales_, head),
                scales(value_scales_, head)};
    }

    std::byte* keys(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<std::byte*>(view(layer, kv_head).keys); }
    std::byte* values(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<std::byte*>(view(layer, kv_head).values); }
    float* key_scales(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<float*>(view(layer, kv_head).key_scales); }
    float* value_scales(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<float*>(view(layer, kv_head).value_scales); }

private:
    const float* scales(const Buffer<float>& of, size_t head) const noexcept {
        return of.data() == nullptr ? nullptr : of.data() + head * capacity_;
    }

    CacheType type_;
    uint32_t n_kv_heads_;
    size_t heads_;        // of all layers
    size_t token_bytes_;  // of one layer and head, keys or values
    size_t capacity_;     // tokens, whole key blocks
    size_t head_bytes_;   // of one layer and head, keys or values
    Buffer<std::byte> keys_, values_;
    Buffer<float> key_scales_, value_scales_;
};

}  // namespace dca::cpu
