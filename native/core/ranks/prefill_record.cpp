#include "core/ranks/prefill_record.h"

#include <algorithm>

namespace dca {

namespace {

// A block's words: layer, head, first query, end, number of pages, and the pages (dca_session_selection).
constexpr size_t kLayer = 0, kHead = 1, kPages = 4, kBlockWords = 5;

}  // namespace

void gather_density(std::span<const RankRecord> ranks, uint32_t n_heads, std::span<float> out) {
    std::vector<float> own;
    for (const RankRecord& rank : ranks) {
        own.resize(size_t{rank.layers.count} * rank.heads.count);
        rank.executor.density(own);
        for (uint32_t layer = 0; layer < rank.layers.count; ++layer) {
            const size_t to = size_t{rank.layers.first + layer} * n_heads + rank.heads.first;
            std::copy_n(own.data() + size_t{layer} * rank.heads.count, rank.heads.count, out.data() + to);
        }
    }
}

std::vector<uint32_t> gather_selection(std::span<const RankRecord> ranks) {
    std::vector<std::vector<uint32_t>> blocks;
    for (const RankRecord& rank : ranks) {
        const std::vector<uint32_t> words = rank.executor.selection();
        for (size_t at = 0; at < words.size();) {
            const size_t length = kBlockWords + words[at + kPages];
            std::vector<uint32_t>& block =
                blocks.emplace_back(words.begin() + static_cast<ptrdiff_t>(at), words.begin() + static_cast<ptrdiff_t>(at + length));
            block[kLayer] += rank.layers.first;
            block[kHead] += rank.heads.first;
            at += length;
        }
    }
    std::ranges::sort(blocks);
    std::vector<uint32_t> all;
    for (const std::vector<uint32_t>& block : blocks) all.insert(all.end(), block.begin(), block.end());
    return all;
}

}  // namespace dca
