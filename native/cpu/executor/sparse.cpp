// Sparse prefill: which pages of keys a block of queries reads, chosen by its own queries against the pages' mean keys
// (docs/sparse.md).
#include <cmath>

#include "core/engine/page_pool.h"
#include "cpu/executor/executor.h"

namespace dca::cpu {

namespace {

/// The chunk border inside a page; its end where none is. A chunk is at least a page (Engine), so there is one at most.
uint32_t border_in_page(uint32_t page, uint32_t chunk_size) noexcept {
    const uint64_t begin = uint64_t{page} * kPageTokens;
    return static_cast<uint32_t>(std::min<uint64_t>((begin / chunk_size + 1) * chunk_size, begin + kPageTokens));
}

}  // namespace

void CpuExecutor::prepare_means() {
    filled_.clear();
    std::vector<FilledPage> missing;
    for (const SliceRows& slice : slices_) {
        const uint32_t first = slice.start / kPageTokens;
        const uint32_t end = slice.start + slice.rows;
        for (uint32_t i = first; i < pages_for(end); ++i) cache_.set_means(slice.pages[i], false);
        if (!std::ranges::any_of(whole_.blocks, [&](const AttentionBlock& block) { return block.slice == &slice && block.sparse; }))
            continue;
        for (uint32_t i = 0; i < first; ++i) {
            if (!cache_.has_means(slice.pages[i])) missing.push_back({i, slice.pages[i]});
        }
        for (uint32_t i = first; i < end / kPageTokens; ++i) filled_.push_back({i, slice.pages[i]});
    }
    // Pages that were loaded, copied or filled by steps that read no means.
    pool_.run(static_cast<int>(missing.size()), [&](int i, int) {
        for (uint32_t layer = 0; layer < h_.n_layers; ++layer) {
            for (uint32_t head = 0; head < h_.n_kv_heads; ++head) compute_means(layer, head, missing[i].index, missing[i].page);
        }
    });
    for (const FilledPage& page : missing) cache_.set_means(page.page, true);
}

void CpuExecutor::store_means(uint32_t layer) {
    pool_.run(static_cast<int>(filled_.size()), [&](int i, int) {
        for (uint32_t head = 0; head < h_.n_kv_heads; ++head) compute_means(layer, head, filled_[i].index, filled_[i].page);
    });
}

void CpuExecutor::end() {
    settle_pages();
    for (const FilledPage& page : filled_) cache_.set_means(page.page, true);
    filled_.clear();
}

void CpuExecutor::compute_means(uint32_t layer, uint32_t kv_head, uint32_t index, uint32_t page) {
    if (reach_of(layer).window != 0) return;  // layers with a window read all of it
    const auto mean = kernels_.mean_keys[static_cast<size_t>(cache_.type())];
    const uint32_t begin = page * kPageTokens;
    const uint32_t border = begin + border_in_page(index, whole_.scheme.chunk_size) - index * kPageTokens;
    const CacheView view = cache_.view(layer, kv_head);
    const auto head_dim = static_cast<int>(h_.head_dim);
    mean(view, {begin, border}, head_dim, cache_.mean(layer, kv_head, page, 0));
    if (border < begin + kPageTokens) mean(view, {border, begin + kPageTokens}, head_dim, cache_.mean(layer, kv_head, page, 1));
}

void CpuExecutor::choose_pages(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, const float* q, uint32_t begin, uint32_t end,
                               Worker& worker) {
    PageChoice& choice = worker.choice;
    choice.pieces.clear();
    choice.rows = 0;
    const uint32_t chunk = begin / whole_.scheme.chunk_size;
    const uint32_t own = begin / kPageTokens;
    const size_t most_rows = 2 * (size_t{own} + 1);
    choice.scores.resize(std::max(choice.scores.size(), group_ * most_rows * kPanelLanes));
    choice.weights.resize(std::max(choice.weights.size(), most_rows));
    for (uint32_t range = range_count(whole_.scheme, chunk); range-- > 0;) {
        const auto which = static_cast<Range>(range);
        rotate_queries(q, layer, indices_.data() + block.slice->first_row + block.first_row, static_cast<int>(block.rows), kPanelLanes,
                       which, worker);
        score_range(layer, kv_head, block, which, key_range(whole_.scheme, chunk, which, end), own, worker);
    }

    choice.kept.assign(choice.pieces.size() * group_, 1);
    const uint32_t first_query = block.slice->start + block.first_row;
    for (int g = 0; g < group_; ++g) {
        float* weights = choice.weights.data();
        kernels_.weigh_pages(choice.scores.data() + g * most_rows * kPanelLanes, static_cast<int>(choice.rows),
                             static_cast<int>(begin - first_query), static_cast<int>(end - first_query), weights);
        float heaviest = 0.0f;
        for (uint32_t row = 0; row < choice.rows; ++row) heaviest = std::max(heaviest, weights[row]);
        const float least = prefill_.alpha * heaviest;
        for (size_t i = 0; i < choice.pieces.size(); ++i) {
            const PagePiece& piece = choice.pieces[i];
            if (always_read(piece.page, own)) continue;
            bool light = true;  // what is no number is read, and gives none
            for (uint32_t row = piece.first_row; row < piece.first_row + piece.rows; ++row) light &= weights[row] < least;
            if (light) choice.kept[i * group_ + g] = 0;
        }
    }
}

/// Adds the pieces of a range, and scores those of full pages before the queries' own with the queries in worker.q.
void CpuExecutor::score_range(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Range range, KeyRange keys, uint32_t own,
                              Worker& worker) {
    PageChoice& choice = worker.choice;
    const size_t head_dim = h_.head_dim;
    const size_t most_rows = 2 * (size_t{own} + 1);
    const uint32_t first_row = choice.rows;
    choice.means.resize(std::max(choice.means.size(), (most_rows + kPanelLanes) * head_dim));
    const auto add_mean = [&](uint32_t page, uint32_t side) {
        const size_t row = choice.rows++ - first_row;
        const float* mean = cache_.mean(layer, kv_head, block.slice->pages[page], side);
        float* at = choice.means.data() + row / kPanelLanes * kPanelLanes * head_dim + row % kPanelLanes;
        for (size_t d = 0; d < head_dim; ++d) at[d * kPanelLanes] = mean[d];
    };
    for (uint32_t page = keys.begin / kPageTokens; uint64_t{page} * kPageTokens < keys.end; ++page) {
        const uint32_t begin = page * kPageTokens;
        const KeyRange inside{std::max(keys.begin, begin), std::min(keys.end, begin + kPageTokens)};
        PagePiece piece{page, range, inside, choice.rows, 0};
        if (page < own) {
            const uint32_t border = border_in_page(page, whole_.scheme.chunk_size);
            if (inside.begin < border) add_mean(page, 0);
            if (inside.end > border) add_mean(page, 1);
        }
        piece.rows = choice.rows - piece.first_row;
        choice.pieces.push_back(piece);
    }
    for (int g = 0; g < group_; ++g) {
        kernels_.score_means(choice.means.data(), static_cast<int>(choice.rows - first_row), worker.q.data() + g * head_dim * kPanelLanes,
                             static_cast<int>(head_dim), choice.scores.data() + (g * most_rows + first_row) * kPanelLanes);
    }
}

void CpuExecutor::note_choice(uint32_t layer, uint32_t kv_head, bool sparse, uint32_t begin, uint32_t end, Worker& worker) {
    const PageChoice& choice = worker.choice;
    const uint64_t rows = end - begin;
    const uint64_t before = begin - first_key(whole_.scheme, begin / whole_.scheme.chunk_size);
    const uint64_t seen = rows * before + rows * (rows + 1) / 2;
    for (int g = 0; g < group_; ++g) {
        const uint32_t head = kv_head * static_cast<uint32_t>(group_) + static_cast<uint32_t>(g);
        PairCount& pairs = worker.pairs[size_t{layer} * h_.n_heads + head];
        pairs.seen += seen;
        pairs.read += seen;
        if (!sparse) continue;
        std::vector<uint32_t> words{layer, head, begin, end, 0};
        for (size_t i = 0; i < choice.pieces.size(); ++i) {
            const PagePiece& piece = choice.pieces[i];
            if (choice.kept[i * group_ + g] == 0) {
                pairs.read -= rows * (piece.keys.end - piece.keys.begin);  // it lies before the queries' own page
            } else if (prefill_.record) {
                words.push_back(piece.page * 4 + static_cast<uint32_t>(piece.range));
            }
        }
        if (!prefill_.record) continue;
        words[4] = static_cast<uint32_t>(words.size() - 5);
        std::sort(words.begin() + 5, words.end());
        selection_.add(std::move(words));
    }
}

void CpuExecutor::density(std::span<float> out) const {
    for (size_t i = 0; i < out.size(); ++i) {
        PairCount all;
        for (const Worker& worker : workers_) {
            if (worker.pairs.empty()) continue;
            all.read += worker.pairs[i].read;
            all.seen += worker.pairs[i].seen;
        }
        out[i] = all.seen == 0 ? NAN : static_cast<float>(static_cast<double>(all.read) / static_cast<double>(all.seen));
    }
}

}  // namespace dca::cpu
