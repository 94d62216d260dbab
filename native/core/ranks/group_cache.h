// The caches of several ranks as one: a page of it is that page of every rank's, each with the layers or the key heads that are its own.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/ranks/shard.h"

namespace dca {

/// In files a page is that of the whole model on one rank, so that sequences are loaded by any number of ranks.
class GroupCache final : public KvCache {
public:
    /// A rank's cache, and the layers and key heads that it is of.
    struct Part {
        std::unique_ptr<KvCache> cache;
        Run layers, heads;
    };
    GroupCache(const Hparams& hparams, std::vector<Part> parts);

    uint64_t bytes() const override;
    void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) override;
    std::string layout(const Hparams& whole) const override { return parts_.front().cache->layout(whole); }
    uint64_t page_bytes() const override;
    std::vector<PageSection> sections() const override { return parts_.front().cache->sections(); }
    void save_page(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_page(uint32_t page, const std::byte* in) override;
    /// In host memory a page is every rank's own, one after the other.
    uint64_t host_page_bytes() const override;
    std::shared_ptr<std::byte> host_memory(uint64_t bytes) const override { return parts_.front().cache->host_memory(bytes); }
    uint64_t start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override {
        return start(&KvCache::start_saving, pages, memory);
    }
    uint64_t start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) override {
        return start(&KvCache::start_loading, pages, memory);
    }
    bool copied(uint64_t number, bool waits) override;
    uint64_t tail_bytes() const override;
    PageSection tail_section() const override { return parts_.front().cache->tail_section(); }
    void save_tail(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_tail(uint32_t page, const std::byte* in) override;

private:
    using Start = uint64_t (KvCache::*)(std::span<const uint32_t>, std::span<std::byte* const>);
    uint64_t start(Start copy, std::span<const uint32_t> pages, std::span<std::byte* const> memory);

    /// Calls visit(where in the whole page, where in the part's, how many bytes) for every run of bytes that both have, of what
    /// consists of these sections.
    template <class Visit>
    void each_run(const Part& part, std::span<const PageSection> sections, Visit&& visit) const;
    uint64_t bytes_of(std::span<const PageSection> sections) const;

    uint32_t n_layers_, n_kv_heads_;
    std::vector<Part> parts_;                      // by rank
    std::deque<std::vector<uint64_t>> under_way_;  // copies: their numbers, by rank
    uint64_t copies_ = 0;                          // the last one's number
};

}  // namespace dca
