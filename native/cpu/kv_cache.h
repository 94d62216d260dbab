// Keys and values on the CPU: for each layer and key head its pages one after another, in the layout that kernels.h's
// CacheView states. So pages that follow each other are one span to a kernel.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/backend/backend.h"
#include "core/backend/batch.h"
#include "core/engine/fresh_pages.h"
#include "core/engine/page_pool.h"
#include "cpu/buffer.h"
#include "cpu/kernels/kernels.h"
#include "dca.h"

namespace dca::cpu {

class CpuKvCache final : public KvCache {
public:
    /// For steps of so many rows, which read Q4's fresh pages more finely; 0: none are.
    CpuKvCache(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t tokens, dca_cache_type type, bool with_means = false,
               uint32_t rows = 0);

    uint64_t bytes() const override {
        return keys_.bytes() + values_.bytes() + key_affine_.bytes() + value_affine_.bytes() + means_.bytes() + centres_.bytes() +
               fine_bytes();
    }
    /// What a cache of so many tokens takes.
    static uint64_t bytes_for(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint64_t tokens, dca_cache_type type,
                              bool with_means = false);

    void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) override;
    std::string layout(const Hparams& whole) const override;
    uint64_t page_bytes() const override;
    std::vector<PageSection> sections() const override;
    void save_page(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_page(uint32_t page, const std::byte* in) override;
    uint64_t start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override;
    uint64_t start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override;
    uint64_t tail_bytes() const override { return fine_codes_.empty() ? 0 : fine_slot_bytes(); }
    PageSection tail_section() const override { return {1, fine_slot_bytes() / heads_}; }
    void save_tail(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_tail(uint32_t page, const std::byte* in) override;

    /// Makes the pages that a step writes to ready for it (core/engine/fresh_pages.h).
    void begin(const Batch& batch);
    /// Pages that the step has filled, which are to be settled in every layer and head: by settle(view_to_settle()).
    std::vector<FreshPages::Filled> filled() const;
    CacheView view_to_settle(uint32_t layer, uint32_t kv_head, uint32_t page) const noexcept {
        CacheView settled = view(layer, kv_head);
        settled.fine_keys = fine_keys(layer, kv_head, page);
        return settled;
    }
    bool has_fresh_pages() const noexcept { return !fine_codes_.empty(); }
    /// Where a page's fine codes are; null: it has none.
    std::byte* fine_keys(uint32_t layer, uint32_t kv_head, uint32_t page) const noexcept { return fine_codes(layer, kv_head, page, 0); }
    std::byte* fine_values(uint32_t layer, uint32_t kv_head, uint32_t page) const noexcept { return fine_codes(layer, kv_head, page, 1); }

    /// The mean key of a page on one side of the chunk border that cuts it (0: before, or of the whole page): (head_dim).
    float* mean(uint32_t layer, uint32_t kv_head, uint32_t page, uint32_t side) noexcept {
        const size_t head = size_t{layer} * n_kv_heads_ + kv_head;
        return means_.data() + ((head * (capacity_ / kPageTokens) + page) * 2 + side) * head_dim_;
    }
    /// Whether the page's means are those of its keys. Whatever writes keys into it ends that.
    bool has_means(uint32_t page) const noexcept { return mean_is_current_[page] != 0; }
    void set_means(uint32_t page, bool current) noexcept {
        if (!mean_is_current_.empty()) mean_is_current_[page] = current ? 1 : 0;
    }

    CacheType type() const noexcept { return type_; }

    /// Counted from the first token of page 0.
    CacheView view(uint32_t layer, uint32_t kv_head) const noexcept {
        const size_t head = size_t{layer} * n_kv_heads_ + kv_head;
        return {keys_.data() + head * head_bytes_,
                values_.data() + head * head_bytes_,
                affine(key_affine_, head),
                affine(value_affine_, head),
                nullptr,
                nullptr,
                centres(head, 0)};
    }

    std::byte* keys(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<std::byte*>(view(layer, kv_head).keys); }
    std::byte* values(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<std::byte*>(view(layer, kv_head).values); }
    uint16_t* key_affine(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<uint16_t*>(view(layer, kv_head).key_affine); }
    uint16_t* value_affine(uint32_t layer, uint32_t kv_head) noexcept { return const_cast<uint16_t*>(view(layer, kv_head).value_affine); }

private:
    /// Of a layer's head: (pages, head_dim).
    const uint16_t* centres(size_t head, uint32_t page) const noexcept {
        return centres_.data() == nullptr ? nullptr : centres_.data() + (head * (capacity_ / kPageTokens) + page) * head_dim_;
    }
    uint16_t* centres(size_t head, uint32_t page) noexcept { return const_cast<uint16_t*>(std::as_const(*this).centres(head, page)); }
    const uint16_t* affine(const Buffer<uint16_t>& of, size_t head) const noexcept {
        return of.data() == nullptr ? nullptr : of.data() + head * capacity_ * token_affine_;
    }

    size_t fine_slot_bytes() const noexcept { return heads_ * 2 * kPageTokens * token_bytes_; }
    uint64_t fine_bytes() const noexcept;
    std::byte* fine_codes(uint32_t layer, uint32_t kv_head, uint32_t page, size_t kind) const noexcept {
        const uint32_t slot = fresh_.of(page);
        if (slot == FreshPages::kNone) return nullptr;
        return const_cast<std::byte*>(fine_codes_[slot].data()) +
               ((size_t{layer} * n_kv_heads_ + kv_head) * 2 + kind) * kPageTokens * token_bytes_;
    }
    /// The slot's memory, which is there from its first use on.
    std::byte* open_slot(uint32_t slot);

    CacheType type_;
    uint32_t n_kv_heads_;
    uint32_t head_dim_;
    size_t heads_;         // of all layers
    size_t token_bytes_;   // of one layer and head, keys or values
    size_t token_affine_;  // f16 numbers beside the codes of a token, of one layer and head, keys or values
    size_t capacity_;      // tokens, whole pages
    size_t head_bytes_;    // of one layer and head, keys or values
    Buffer<std::byte> keys_, values_;
    Buffer<uint16_t> key_affine_, value_affine_;  // of caches of codes
    Buffer<uint16_t> centres_;                    // Q4: (heads, pages, head_dim), f16
    Buffer<float> means_;                         // (heads, pages, 2, head_dim); empty unless prefill is sparse
    std::vector<uint8_t> mean_is_current_;
    FreshPages fresh_;
    std::vector<Buffer<std::byte>> fine_codes_;  // by slot: (heads, keys and values, kPageTokens tokens); Q4 only
};

}  // namespace dca::cpu
