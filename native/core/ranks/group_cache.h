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
    std::shared_ptr<std::byte> host_memory(uint64_t bytes) const override;
    uint64_t start_saving(std::span<const uint32_t> pages, std::byte* memory) override;
    uint64_t start_loading(std::span<const uint32_t> pages, const std::byte* memory) override;
    bool copied(uint64_t number, bool waits) override;
    uint64_t tail_bytes() const override;
    PageSection tail_section() const override { return parts_.front().cache->tail_section(); }
    void save_tail(uint32_t page, uint32_t tokens, std::byte* out) const override;
    void load_tail(uint32_t page, const std::byte* in) override;

private:
    /// What host_memory() is of: each rank's, apart.
    struct Memory {
        std::vector<std::shared_ptr<std::byte>> of_rank;
    };

    /// Calls visit(where in the whole page, where in the part's, how many bytes) for every run of bytes that both have, of what
    /// consists of these sections.
    template <class Visit>
    void each_run(const Part& part, std::span<const PageSection> sections, Visit&& visit) const;
    uint64_t bytes_of(std::span<const PageSection> sections) const;
    /// Starts a copy of every rank's, start(cache, rank) each, and numbers all of them together.
    template <class Start>
    uint64_t start_all(Start&& start);

    uint32_t n_layers_, n_kv_heads_;
    std::vector<Part> parts_;  // by rank
    uint64_t copies_ = 0;
    std::deque<std::vector<uint64_t>> under_way_;  // the last copies' numbers, by rank: of number copies_ the last
};

}  // namespace dca
