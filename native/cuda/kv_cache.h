// Keys and values of all layers on a card: a pool of pages (core/engine/page_pool.h), and one page more that no sequence
// gets, for rows of padding to write to.
//
// Tensors are layer 0's keys, layer 0's values, layer 1's keys, ..., each (pages, n_kv_heads, kPageTokens, head_dim);
// behind them those of their scales, if the type has such, each (pages, n_kv_heads, kPageTokens). A Q4 cache has slots of fine
// codes besides (core/engine/fresh_pages.h), each of as many tensors, (n_kv_heads, kPageTokens, head_dim / 2), and last of all the
// centres of its pages' keys, (pages, layers, n_kv_heads, head_dim).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/backend/backend.h"
#include "core/backend/batch.h"
#include "core/engine/fresh_pages.h"
#include "core/engine/page_pool.h"
#include "cuda/attention/attention.h"
#include "cuda/device/copier.h"
#include "cuda/device/device.h"
#include "cuda/device/large_pinned.h"
#include "cuda/device/resources.h"
#include "cuda/sparse/page_means.h"

namespace dca::cuda {

/// Throws an unsupported error for a type that the kernels do not read.
CacheType supported_cache(dca_cache_type type);

class CudaKvCache final : public KvCache {
public:
    /// For steps of so many rows and slices.
    CudaKvCache(const Hparams& hparams, const Device& device, uint32_t tokens, CacheType type, bool with_means, uint32_t rows,
                uint32_t slices);

    uint64_t bytes() const override {
        return padding_page() * (page_bytes() + (means_ == nullptr ? 0 : means_->page_bytes())) + fine_.bytes;
    }
    /// What the pages of so many tokens take; the one more is as large as those of one token.
    static uint64_t bytes_for(const Hparams& hparams, uint64_t tokens, CacheType type, bool with_means = false);
    /// What the slots of fine codes take.
    static uint64_t fine_bytes_for(const Hparams& hparams, uint64_t tokens, CacheType type, uint32_t rows, uint32_t slices);

    /// Makes slots of fine codes ready for the pages that a step writes to, before what `stream` does next.
    void begin(const Batch& batch, cudaStream_t stream);
    /// Pages that the step has filled, which are to be settled in every layer (settle_keys).
    std::vector<FreshPages::Filled> filled() const;

    void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) override;
    std::string layout(const Hparams& whole) const override;
    std::vector<PageSection> sections() const override;
    uint64_t page_bytes() const override;
    void save_page(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_page(uint32_t page, const std::byte* in) override;
    std::shared_ptr<std::byte> host_memory(uint64_t bytes) const override;
    uint64_t start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override;
    uint64_t start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override;
    bool copied(uint64_t number, bool waits) override { return copier_.copied(number, waits); }
    uint64_t tail_bytes() const override { return fine_.slot_bytes; }
    PageSection tail_section() const override;
    void save_tail(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_tail(uint32_t page, const std::byte* in) override;

    const std::vector<LayerCache>& layers() const noexcept { return layers_; }
    CacheType type() const noexcept { return type_; }
    uint32_t padding_page() const noexcept { return pages_ - 1; }
    /// Null unless prefill is sparse.
    PageMeans* means() const noexcept { return means_.get(); }

private:
    /// Tensors of one element size that follow each other in memory.
    struct Tensors {
        size_t offset;       // of the first, in the cache's memory
        size_t count;        // of them
        size_t token_bytes;  // of one head
        size_t page_bytes;   // of one tensor
    };
    std::vector<Tensors> tensors() const;

    struct Fine {
        uint64_t bytes = 0, slot_bytes = 0;
        FreshPages pages;
        DeviceMemory memory, slots;  // slots (pages): FreshPages::by_page
        bool moved = true;           // since the card's copy of it
    };
    std::byte* fine_slot(uint32_t slot) const noexcept { return fine_.memory.get() + slot * fine_.slot_bytes; }
    void clear_slot(uint32_t slot, cudaStream_t stream);
    /// Where a page of one of them begins.
    std::byte* at(const Tensors& of, size_t number, uint32_t page) const noexcept {
        return memory_.get() + of.offset + (number * pages_ + page) * of.page_bytes;
    }

    Device device_;
    uint32_t n_layers_, n_kv_heads_, head_dim_;
    uint32_t pages_;
    CacheType type_;
    DeviceMemory memory_;
    std::unique_ptr<PageMeans> means_;
    /// Calls copy(device, host, width, host stride, count) for every tensor of every run of pages that follow each other here and
    /// there; pages lie back to back here, so their stride is the width.
    template <class Copy>
    void for_runs(std::span<const uint32_t> pages, std::span<std::byte* const> memory, Copy copy) const;
    /// Copies of so many pages at once that the driver's queue holds them.
    size_t pages_a_piece() const;

    /// Pinned memory that pages slept in: making and freeing it takes longer than the copies. Threads take turns.
    struct HostBlocks {
        std::mutex mutex;
        std::vector<std::pair<uint64_t, LargePinned>> free;  // (bytes, memory)
        size_t made = 0;
    };

    Stream stream_;  // of copies; no step runs meanwhile
    std::shared_ptr<HostBlocks> host_blocks_ = std::make_shared<HostBlocks>();
    Fine fine_;
    std::vector<LayerCache> layers_;
    Copier copier_;  // of pages to and from host memory, while steps run; ends first
};

}  // namespace dca::cuda
