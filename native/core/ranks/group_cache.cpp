#include "core/ranks/group_cache.h"

#include <array>
#include <cstring>
#include <utility>

namespace dca {

GroupCache::GroupCache(const Hparams& hparams, std::vector<Part> parts)
    : n_layers_(hparams.n_layers), n_kv_heads_(hparams.n_kv_heads), parts_(std::move(parts)) {}

uint64_t GroupCache::bytes() const {
    uint64_t bytes = 0;
    for (const Part& part : parts_) bytes += part.cache->bytes();
    return bytes;
}

void GroupCache::copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) {
    const auto& other = static_cast<const GroupCache&>(source);
    for (size_t rank = 0; rank < parts_.size(); ++rank) parts_[rank].cache->copy_page(to, *other.parts_[rank].cache, from, tokens);
}

uint64_t GroupCache::bytes_of(std::span<const PageSection> sections) const {
    uint64_t bytes = 0;
    for (const PageSection& section : sections) bytes += uint64_t{n_layers_} * section.tensors * n_kv_heads_ * section.head_bytes;
    return bytes;
}

uint64_t GroupCache::page_bytes() const { return bytes_of(sections()); }

uint64_t GroupCache::tail_bytes() const { return parts_.front().cache->tail_bytes() == 0 ? 0 : bytes_of(std::array{tail_section()}); }

template <class Visit>
void GroupCache::each_run(const Part& part, std::span<const PageSection> sections, Visit&& visit) const {
    size_t section_begin = 0, own = 0;
    for (const PageSection& section : sections) {
        const size_t tensor_bytes = n_kv_heads_ * section.head_bytes, run = part.heads.count * section.head_bytes;
        for (uint32_t tensor = part.layers.first * section.tensors; tensor < part.layers.end() * section.tensors; ++tensor) {
            visit(section_begin + tensor * tensor_bytes + part.heads.first * section.head_bytes, own, run);
            own += run;
        }
        section_begin += size_t{n_layers_} * section.tensors * tensor_bytes;
    }
}

void GroupCache::save_page(uint32_t page, uint32_t tokens, std::byte* out) const {
    std::vector<std::byte> own_page;
    for (const Part& part : parts_) {
        own_page.resize(part.cache->page_bytes());
        part.cache->save_page(page, tokens, own_page.data());
        each_run(part, sections(), [&](size_t whole, size_t own, size_t bytes) { std::memcpy(out + whole, own_page.data() + own, bytes); });
    }
}

void GroupCache::load_page(uint32_t page, const std::byte* in) {
    std::vector<std::byte> own_page;
    for (const Part& part : parts_) {
        own_page.resize(part.cache->page_bytes());
        each_run(part, sections(), [&](size_t whole, size_t own, size_t bytes) { std::memcpy(own_page.data() + own, in + whole, bytes); });
        part.cache->load_page(page, own_page.data());
    }
}

void GroupCache::save_tail(uint32_t page, uint32_t tokens, std::byte* out) const {
    std::vector<std::byte> own_tail;
    for (const Part& part : parts_) {
        own_tail.resize(part.cache->tail_bytes());
        part.cache->save_tail(page, tokens, own_tail.data());
        each_run(part, std::array{tail_section()},
                 [&](size_t whole, size_t own, size_t bytes) { std::memcpy(out + whole, own_tail.data() + own, bytes); });
    }
}

void GroupCache::load_tail(uint32_t page, const std::byte* in) {
    std::vector<std::byte> own_tail;
    for (const Part& part : parts_) {
        own_tail.resize(part.cache->tail_bytes());
        each_run(part, std::array{tail_section()},
                 [&](size_t whole, size_t own, size_t bytes) { std::memcpy(own_tail.data() + own, in + whole, bytes); });
        part.cache->load_tail(page, own_tail.data());
    }
}

uint64_t GroupCache::host_page_bytes() const {
    uint64_t bytes = 0;
    for (const Part& part : parts_) bytes += part.cache->host_page_bytes();
    return bytes;
}

uint64_t GroupCache::start(Start copy, std::span<const uint32_t> pages, std::span<std::byte* const> memory) {
    std::vector<std::byte*> own(memory.begin(), memory.end());
    std::vector<uint64_t> numbers;
    for (const Part& part : parts_) {
        numbers.push_back((part.cache.get()->*copy)(pages, own));
        for (std::byte*& page : own) page += part.cache->host_page_bytes();
    }
    under_way_.push_back(std::move(numbers));
    return ++copies_;
}

bool GroupCache::copied(uint64_t number, bool waits) {
    while (!under_way_.empty() && copies_ - under_way_.size() < number) {  // the first one's number is not above it
        for (size_t rank = 0; rank < parts_.size(); ++rank) {
            if (!parts_[rank].cache->copied(under_way_.front()[rank], waits)) return false;
        }
        under_way_.pop_front();
    }
    return true;
}

}  // namespace dca
