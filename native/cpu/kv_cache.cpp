#include "cpu/kv_cache.h"

#include <cstring>

#include "core/engine/page_pool.h"

namespace dca::cpu {

namespace {

static_assert(kPageTokens == kKeyTile, "a page is a tile of attention's: where pages lie must not move a sum");

/// Of a token's keys or values in one layer and head, without what goes with codes.
size_t bytes_of(CacheType type, uint32_t head_dim) noexcept {
    switch (type) {
        case CacheType::F32: return size_t{head_dim} * 4;
        case CacheType::Q8: return head_dim;
        case CacheType::Q4: return head_dim / 2;
        case CacheType::F16:
        case CacheType::BF16: break;
    }
    return size_t{head_dim} * 2;
}

/// Of an element, which is two values in Q4.
size_t element_bytes(CacheType type) noexcept { return type == CacheType::Q4 ? 1 : bytes_of(type, 1); }

/// f16 numbers beside the keys of a page.
size_t centre_of(CacheType type, uint32_t head_dim) noexcept { return type == CacheType::Q4 ? head_dim : 0; }

/// f16 numbers beside them: a scale and an offset for each group of features.
size_t affine_of(CacheType type, uint32_t head_dim) noexcept {
    return holds_codes(type) ? size_t{2} * code_groups(type, static_cast<int>(head_dim)) : 0;
}

/// Of a page in blocks of (rows, kPanelLanes) elements, the lanes of keys from `tokens` on, value by value.
void clear_lanes(std::byte* page, uint32_t tokens, size_t rows, size_t element, int to = 0) noexcept {
    for (uint32_t lane = tokens; lane < kPageTokens; ++lane) {
        std::byte* block = page + (lane / kPanelLanes * rows * kPanelLanes + lane % kPanelLanes) * element;
        for (size_t row = 0; row < rows; ++row) std::memset(block + row * kPanelLanes * element, to, element);
    }
}

const char* name_of(CacheType type) noexcept {
    switch (type) {
        case CacheType::F32: return "f32";
        case CacheType::BF16: return "bf16";
        case CacheType::Q8: return "q8";
        case CacheType::Q4: return "q4";
        case CacheType::F16: break;
    }
    return "f16";
}

}  // namespace

CpuKvCache::CpuKvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t tokens, dca_cache_type type, bool with_means,
                       uint32_t rows)
    : type_(static_cast<CacheType>(type)),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      heads_(size_t{n_layers} * n_kv_heads),
      token_bytes_(bytes_of(type_, head_dim)),
      token_affine_(affine_of(type_, head_dim)),
      capacity_(size_t{pages_for(tokens)} * kPageTokens),
      head_bytes_(capacity_ * token_bytes_) {
    keys_ = Buffer<std::byte>(heads_ * head_bytes_);
    values_ = Buffer<std::byte>(heads_ * head_bytes_);
    key_affine_ = Buffer<uint16_t>(heads_ * capacity_ * token_affine_);
    value_affine_ = Buffer<uint16_t>(heads_ * capacity_ * token_affine_);
    centres_ = Buffer<uint16_t>(heads_ * (capacity_ / kPageTokens) * centre_of(type_, head_dim));
    if (centres_.data() != nullptr) std::memset(centres_.data(), 0, centres_.bytes());
    if (with_means) {
        means_ = Buffer<float>(heads_ * (capacity_ / kPageTokens) * 2 * head_dim_);
        mean_is_current_.resize(capacity_ / kPageTokens);
    }
    if (type_ == CacheType::Q4 && rows != 0) {
        const uint32_t slots = FreshPages::slots_for(pages_for(tokens), rows, rows);
        fresh_ = FreshPages(pages_for(tokens), slots);
        fine_codes_.resize(slots);
    }
}

uint64_t CpuKvCache::bytes_for(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint64_t tokens, dca_cache_type type,
                               bool with_means) {
    const auto kind = static_cast<CacheType>(type);
    const uint64_t token = bytes_of(kind, head_dim) + affine_of(kind, head_dim) * sizeof(uint16_t);
    const uint64_t page =
        2 * token * kPageTokens + (with_means ? 2 * head_dim * sizeof(float) : 0) + centre_of(kind, head_dim) * sizeof(uint16_t);
    return uint64_t{n_layers} * n_kv_heads * page * pages_for(tokens);
}

void CpuKvCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) {
    const auto& other = static_cast<const CpuKvCache&>(source);
    set_means(to, false);
    fresh_.drop(to);
    if (const uint32_t slot = other.fresh_.of(from); slot != FreshPages::kNone && tokens < kPageTokens && has_fresh_pages()) {
        fresh_.adopt(to, [&](uint32_t taken) {
            // Perhaps from itself: the slot that was used longest ago may be the one.
            std::memmove(open_slot(taken), other.fine_codes_[slot].data(), fine_slot_bytes());
        });
    }
    // Keys lie in whole blocks; what the last one holds beyond `tokens` is not read before it is written.
    const size_t keys = (size_t{tokens} + kPanelLanes - 1) / kPanelLanes * kPanelLanes;
    for (size_t head = 0; head < heads_; ++head) {
        const size_t to_token = head * capacity_ + size_t{to} * kPageTokens;
        const size_t from_token = head * other.capacity_ + size_t{from} * kPageTokens;
        std::memcpy(keys_.data() + to_token * token_bytes_, other.keys_.data() + from_token * token_bytes_, keys * token_bytes_);
        std::memcpy(values_.data() + to_token * token_bytes_, other.values_.data() + from_token * token_bytes_, tokens * token_bytes_);
        if (centres_.data() != nullptr) std::memcpy(centres(head, to), other.centres(head, from), head_dim_ * sizeof(uint16_t));
        if (token_affine_ == 0) continue;
        const size_t a = token_affine_, width = a * sizeof(uint16_t);
        std::memcpy(key_affine_.data() + to_token * a, other.key_affine_.data() + from_token * a, keys * width);
        std::memcpy(value_affine_.data() + to_token * a, other.value_affine_.data() + from_token * a, tokens * width);
    }
}

std::string CpuKvCache::layout(const Hparams& whole) const {
    const auto head_dim = static_cast<int>(head_dim_);
    std::string codes;
    if (holds_codes(type_)) {
        codes = " in groups of " + std::to_string(code_group(type_, head_dim)) + " with f16 scale and offset" +
                (type_ == CacheType::Q4 ? ", keys about their page's mean" : "") + ", turned by Hadamard matrices of " +
                std::to_string(hadamard_size(head_dim));
    }
    return std::string("cpu, ") + name_of(type_) + codes + ", keys in blocks of " + std::to_string(kPanelLanes) + ", " +
           std::to_string(whole.n_layers * whole.n_kv_heads) + " heads of " + std::to_string(head_dim_);
}

uint64_t CpuKvCache::page_bytes() const { return heads_ * sections().front().head_bytes; }

std::vector<PageSection> CpuKvCache::sections() const {
    const size_t codes = 2 * kPageTokens * (token_bytes_ + token_affine_ * sizeof(uint16_t));
    return {{1, codes + centre_of(type_, head_dim_) * sizeof(uint16_t)}};
}

void CpuKvCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    const size_t bytes = kPageTokens * token_bytes_;
    const size_t element = element_bytes(type_);
    const size_t affine_bytes = kPageTokens * token_affine_ * sizeof(uint16_t);
    const auto write = [&](const void* from, size_t written, size_t whole) {
        std::memcpy(out, from, written);
        std::memset(out + written, 0, whole - written);
        out += whole;
    };
    for (size_t head = 0; head < heads_; ++head) {
        const size_t token = head * capacity_ + size_t{page} * kPageTokens;
        std::byte* keys = out;
        write(keys_.data() + token * token_bytes_, bytes, bytes);
        clear_lanes(keys, tokens, token_bytes_ / element, element);
        write(values_.data() + token * token_bytes_, tokens * token_bytes_, bytes);
        const size_t centre_bytes = centre_of(type_, head_dim_) * sizeof(uint16_t);
        if (centre_bytes != 0) write(centres(head, page), centre_bytes, centre_bytes);
        if (token_affine_ == 0) continue;
        std::byte* affine = out;
        write(key_affine_.data() + token * token_affine_, affine_bytes, affine_bytes);
        clear_lanes(affine, tokens, token_affine_, sizeof(uint16_t));
        write(value_affine_.data() + token * token_affine_, tokens * token_affine_ * sizeof(uint16_t), affine_bytes);
    }
}

uint64_t CpuKvCache::start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) {
    for (size_t i = 0; i < pages.size(); ++i) save_page(pages[i], kPageTokens, memory[i]);
    return 0;  // done already
}

uint64_t CpuKvCache::start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) {
    for (size_t i = 0; i < pages.size(); ++i) load_page(pages[i], memory[i]);
    return 0;
}

uint64_t CpuKvCache::fine_bytes() const noexcept {
    uint64_t bytes = 0;
    for (const Buffer<std::byte>& slot : fine_codes_) bytes += slot.bytes();
    return bytes;
}

std::byte* CpuKvCache::open_slot(uint32_t slot) {
    if (fine_codes_[slot].data() == nullptr) fine_codes_[slot] = Buffer<std::byte>(fine_slot_bytes());
    return fine_codes_[slot].data();
}

void CpuKvCache::begin(const Batch& batch) {
    if (!has_fresh_pages()) return;
    fresh_.begin(
        batch, [&](uint32_t slot) { std::memset(open_slot(slot), kNoFineCodes, fine_slot_bytes()); },
        [&](uint32_t page) {
            for (size_t head = 0; head < heads_; ++head) std::memset(centres(head, page), 0, head_dim_ * sizeof(uint16_t));
        });
}

std::vector<FreshPages::Filled> CpuKvCache::filled() const {
    std::vector<FreshPages::Filled> pages;
    fresh_.end([&](FreshPages::Filled filled) { pages.push_back(filled); });
    return pages;
}

void CpuKvCache::save_tail(uint32_t page, uint32_t tokens, std::byte* out) const {
    std::memset(out, kNoFineCodes, fine_slot_bytes());
    const uint32_t slot = fresh_.of(page);
    if (slot == FreshPages::kNone) return;
    std::memcpy(out, fine_codes_[slot].data(), fine_slot_bytes());
    const size_t page_bytes = kPageTokens * token_bytes_;
    for (size_t head = 0; head < heads_; ++head, out += 2 * page_bytes) {
        clear_lanes(out, tokens, token_bytes_, 1, kNoFineCodes);
        std::memset(out + page_bytes + tokens * token_bytes_, kNoFineCodes, (kPageTokens - tokens) * token_bytes_);
    }
}

void CpuKvCache::load_tail(uint32_t page, const std::byte* in) {
    fresh_.adopt(page, [&](uint32_t slot) { std::memcpy(open_slot(slot), in, fine_slot_bytes()); });
}

void CpuKvCache::load_page(uint32_t page, const std::byte* in) {
    set_means(page, false);
    fresh_.drop(page);
    const auto read = [&](void* to, size_t bytes) {
        std::memcpy(to, in, bytes);
        in += bytes;
    };
    for (size_t head = 0; head < heads_; ++head) {
        const size_t token = head * capacity_ + size_t{page} * kPageTokens;
        read(keys_.data() + token * token_bytes_, kPageTokens * token_bytes_);
        read(values_.data() + token * token_bytes_, kPageTokens * token_bytes_);
        if (centres_.data() != nullptr) read(centres(head, page), head_dim_ * sizeof(uint16_t));
        if (token_affine_ == 0) continue;
        read(key_affine_.data() + token * token_affine_, kPageTokens * token_affine_ * sizeof(uint16_t));
        read(value_affine_.data() + token * token_affine_, kPageTokens * token_affine_ * sizeof(uint16_t));
    }
}

}  // namespace dca::cpu
