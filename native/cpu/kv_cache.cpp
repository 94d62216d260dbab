#include "cpu/kv_cache.h"

#include <cstring>

#include "core/engine/page_pool.h"

namespace dca::cpu {

namespace {

static_assert(kPageTokens == kKeyTile, "a page is a tile of attention's: where pages lie must not move a sum");

size_t element_bytes(CacheType type) noexcept {
    switch (type) {
        case CacheType::F32: return 4;
        case CacheType::Q8: return 1;
        case CacheType::F16:
        case CacheType::BF16: break;
    }
    return 2;
}

const char* name_of(CacheType type) noexcept {
    switch (type) {
        case CacheType::F32: return "f32";
        case CacheType::BF16: return "bf16";
        case CacheType::Q8: return "q8 with f32 scales";
        case CacheType::F16: break;
    }
    return "f16";
}

}  // namespace

CpuKvCache::CpuKvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t tokens, dca_cache_type type,
                       bool with_means)
    : type_(static_cast<CacheType>(type)),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      heads_(size_t{n_layers} * n_kv_heads),
      token_bytes_(head_dim * element_bytes(type_)),
      capacity_(size_t{pages_for(tokens)} * kPageTokens),
      head_bytes_(capacity_ * token_bytes_) {
    keys_ = Buffer<std::byte>(heads_ * head_bytes_);
    values_ = Buffer<std::byte>(heads_ * head_bytes_);
    if (type_ == CacheType::Q8) {
        key_scales_ = Buffer<float>(heads_ * capacity_);
        value_scales_ = Buffer<float>(heads_ * capacity_);
    }
    if (with_means) {
        means_ = Buffer<float>(heads_ * (capacity_ / kPageTokens) * 2 * head_dim_);
        mean_is_current_.resize(capacity_ / kPageTokens);
    }
}

uint64_t CpuKvCache::bytes_for(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint64_t tokens, dca_cache_type type,
                               bool with_means) {
    const auto kind = static_cast<CacheType>(type);
    const uint64_t token = uint64_t{head_dim} * element_bytes(kind) + (kind == CacheType::Q8 ? sizeof(float) : 0);
    const uint64_t page = token * kPageTokens + (with_means ? head_dim * sizeof(float) : 0);
    return uint64_t{2} * n_layers * n_kv_heads * page * pages_for(tokens);
}

void CpuKvCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) {
    const auto& other = static_cast<const CpuKvCache&>(source);
    set_means(to, false);
    // Keys lie in whole blocks; what the last one holds beyond `tokens` is not read before it is written.
    const size_t key_bytes = (size_t{tokens} + kPanelLanes - 1) / kPanelLanes * kPanelLanes * token_bytes_;
    for (size_t head = 0; head < heads_; ++head) {
        const size_t to_token = head * capacity_ + size_t{to} * kPageTokens;
        const size_t from_token = head * other.capacity_ + size_t{from} * kPageTokens;
        std::memcpy(keys_.data() + to_token * token_bytes_, other.keys_.data() + from_token * token_bytes_, key_bytes);
        std::memcpy(values_.data() + to_token * token_bytes_, other.values_.data() + from_token * token_bytes_, tokens * token_bytes_);
        if (type_ != CacheType::Q8) continue;
        std::memcpy(key_scales_.data() + to_token, other.key_scales_.data() + from_token, tokens * sizeof(float));
        std::memcpy(value_scales_.data() + to_token, other.value_scales_.data() + from_token, tokens * sizeof(float));
    }
}

std::string CpuKvCache::layout() const {
    return std::string("cpu, ") + name_of(type_) + ", keys in blocks of " + std::to_string(kPanelLanes) + ", " + std::to_string(heads_) +
           " heads of " + std::to_string(head_dim_);
}

uint64_t CpuKvCache::page_bytes() const {
    const uint64_t head = 2 * kPageTokens * token_bytes_ + (type_ == CacheType::Q8 ? 2 * kPageTokens * sizeof(float) : 0);
    return heads_ * head;
}

void CpuKvCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    const size_t bytes = kPageTokens * token_bytes_;
    const size_t element = token_bytes_ / head_dim_;
    const auto write = [&](const void* from, size_t written, size_t whole) {
        std::memcpy(out, from, written);
        std::memset(out + written, 0, whole - written);
        out += whole;
    };
    for (size_t head = 0; head < heads_; ++head) {
        const size_t token = head * capacity_ + size_t{page} * kPageTokens;
        std::byte* keys = out;
        write(keys_.data() + token * token_bytes_, bytes, bytes);
        // A key is a lane of its block: those past the last are cleared value by value.
        for (uint32_t lane = tokens; lane < kPageTokens; ++lane) {
            std::byte* block = keys + size_t{lane / kPanelLanes} * kPanelLanes * token_bytes_ + lane % kPanelLanes * element;
            for (uint32_t d = 0; d < head_dim_; ++d) std::memset(block + d * kPanelLanes * element, 0, element);
        }
        write(values_.data() + token * token_bytes_, tokens * token_bytes_, bytes);
        if (type_ != CacheType::Q8) continue;
        write(key_scales_.data() + token, tokens * sizeof(float), kPageTokens * sizeof(float));
        write(value_scales_.data() + token, tokens * sizeof(float), kPageTokens * sizeof(float));
    }
}

void CpuKvCache::load_page(uint32_t page, const std::byte* in) {
    set_means(page, false);
    const auto read = [&](void* to, size_t bytes) {
        std::memcpy(to, in, bytes);
        in += bytes;
    };
    for (size_t head = 0; head < heads_; ++head) {
        const size_t token = head * capacity_ + size_t{page} * kPageTokens;
        read(keys_.data() + token * token_bytes_, kPageTokens * token_bytes_);
        read(values_.data() + token * token_bytes_, kPageTokens * token_bytes_);
        if (type_ != CacheType::Q8) continue;
        read(key_scales_.data() + token, kPageTokens * sizeof(float));
        read(value_scales_.data() + token, kPageTokens * sizeof(float));
    }
}

}  // namespace dca::cpu
