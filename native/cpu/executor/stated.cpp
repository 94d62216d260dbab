// Stated budgets: each head reads the columns and diagonals that are heaviest for the last queries of a unit, as many as the
// file states for it (docs/sparse.md, "Stated budgets"). A unit is what a step has of one chunk of a sequence.
#include <algorithm>
#include <cmath>

#include "core/engine/page_pool.h"
#include "cpu/executor/executor.h"
#include "cpu/executor/page_runs.h"

namespace dca::cpu {

namespace {

uint32_t whole_panels(uint32_t queries) { return (queries + kPanelLanes - 1) / kPanelLanes * kPanelLanes; }

/// Scores of keys after a lane's query become minus infinity; rows are keys from `key` on, lanes queries from `query` on.
void hide_later_keys(float* scores, uint32_t key, uint32_t count, uint32_t query) {
    for (uint32_t row = query < key ? 0 : query - key + 1; row < count; ++row) {
        std::fill_n(scores + size_t{row} * kPanelLanes, std::min<uint32_t>(key + row - query, kPanelLanes), -INFINITY);
    }
}

}  // namespace

void CpuExecutor::plan_units() {
    units_.clear();
    const Scheme& scheme = whole_.scheme;
    for (const SliceRows& slice : slices_) {
        static_assert(kFewestTogether == kFewestForPanels);
        if (slice.rows < kFewestTogether) continue;
        const uint64_t end = uint64_t{slice.start} + slice.rows;
        uint64_t first = slice.start;
        if (first < prefill_.from) first = (uint64_t{prefill_.from} + kPanelLanes - 1) / kPanelLanes * kPanelLanes;
        for (uint64_t next; first < end; first = next) {
            const auto chunk = static_cast<uint32_t>(first / scheme.chunk_size);
            next = std::min(end, (uint64_t{chunk} + 1) * scheme.chunk_size);
            const auto queries = static_cast<uint32_t>(next - first);
            units_.push_back({.slice = &slice,
                              .chunk = chunk,
                              .first = static_cast<uint32_t>(first),
                              .end = static_cast<uint32_t>(next),
                              .choosing = std::min(prefill_.stated->last_queries, queries),
                              .cos = {},
                              .sin = {},
                              .factor = {},
                              .heads = std::vector<ChosenLines>(h_.n_heads)});
            prepare_unit(units_.back());
        }
    }
}

void CpuExecutor::prepare_unit(BudgetUnit& unit) {
    const RopeTable& rope = whole_.rope;
    const Scheme& scheme = whole_.scheme;
    const uint32_t lanes = whole_panels(unit.choosing);
    const uint32_t ranges = range_count(scheme, unit.chunk);
    unit.factor.resize(lanes);
    unit.cos.resize(size_t{ranges} * lanes * rope.n_frequencies);
    unit.sin.resize(unit.cos.size());
    // Positions are not held at c - 1, so that a diagonal stays one: s + r for the chunk before, c - 1 + r for earlier ones.
    const uint32_t offsets[] = {0, scheme.chunk_size, rope.last_position};
    for (uint32_t lane = 0; lane < lanes; ++lane) {
        const uint32_t query = std::min(unit.end - unit.choosing + lane, unit.end - 1);  // lanes without one repeat the last
        unit.factor[lane] = scheme.logit_factor(query) * h_.attention_scale;
        for (uint32_t range = 0; range < ranges; ++range) {
            const double position = static_cast<double>(offsets[range]) + query % scheme.chunk_size;
            const size_t panel = (size_t{range} * lanes + lane) / kPanelLanes * rope.n_frequencies;
            for (uint32_t j = 0; j < rope.n_frequencies; ++j) {
                const double angle = position * rope.frequencies.radians[j];
                const size_t at = (panel + j) * kPanelLanes + lane % kPanelLanes;
                unit.cos[at] = static_cast<float>(std::cos(angle) * rope.frequencies.magnitude);
                unit.sin[at] = static_cast<float>(std::sin(angle) * rope.frequencies.magnitude);
            }
        }
    }

    LineBudget most{};
    for (const LineBudget& each : prefill_.stated->heads) {
        most = {std::max(most.columns, std::min(each.columns, unit.end)), std::max(most.diagonals, std::min(each.diagonals, unit.end))};
    }
    for (ChosenLines& head : unit.heads) {
        head.columns.reserve(most.columns);
        head.diagonals.reserve(most.diagonals);
    }
    const auto grow = [](Buffer<float>& buffer, size_t size) {
        if (buffer.size() < size) buffer = Buffer<float>(size);
    };
    for (Worker& worker : workers_) {
        LineScratch& lines = worker.lines;
        grow(lines.raw, size_t{kPanelLanes} * h_.head_dim);
        grow(lines.q, size_t{lanes} * h_.head_dim);
        grow(lines.maximum, lanes);
        grow(lines.sum, lanes);
        grow(lines.keys, size_t{kKeyTile} * h_.head_dim);
        grow(lines.values, size_t{kKeyTile} * h_.head_dim);
        grow(lines.scores, size_t{kKeyTile} * kPanelLanes);
        lines.columns.reserve(unit.end);
        lines.diagonals.reserve(size_t{unit.end} + lanes + kPanelLanes);
        lines.order.reserve(unit.end);
        lines.gathered.resize(kKeyTile);
        lines.only.resize(group_);
        lines.read.resize(group_);
        for (BlockKeys& read : lines.read) {
            read.runs.reserve(most.diagonals);
            read.singles.reserve(most.columns);
        }
    }
}

void CpuExecutor::choose_lines(uint32_t layer) {
    if (reach_of(layer).window != 0) return;  // layers with a window read all of it
    const auto heads = static_cast<int>(h_.n_heads);
    pool_.run(static_cast<int>(units_.size()) * heads,
              [&](int task, int worker) { choose_lines(layer, task % heads, units_[task / heads], workers_[worker]); });
}

void CpuExecutor::choose_lines(uint32_t layer, uint32_t head, BudgetUnit& unit, Worker& worker) {
    LineScratch& lines = worker.lines;
    const uint32_t lanes = whole_panels(unit.choosing);
    const uint32_t first_query = unit.end - unit.choosing;
    const uint32_t begin = first_key(whole_.scheme, unit.chunk);
    const uint32_t keys = unit.end - begin;
    std::fill_n(lines.maximum.data(), lanes, -INFINITY);
    std::fill_n(lines.sum.data(), lanes, 0.0f);
    score_keys(layer, head, unit, worker, [&](uint32_t, uint32_t count, uint32_t lane, float* scores) {
        kernels_.fold_exp_sum(scores, static_cast<int>(count), kPanelLanes, lines.maximum.data() + lane, lines.sum.data() + lane);
    });
    float* inverse = lines.sum.data();
    for (uint32_t lane = 0; lane < lanes; ++lane) inverse[lane] = lane < unit.choosing ? 1.0f / inverse[lane] : 0.0f;
    lines.columns.assign(keys, 0.0f);
    lines.diagonals.assign(size_t{lanes} + keys + kPanelLanes, 0.0f);
    float* at_zero = lines.diagonals.data() + lanes;  // the distance 0
    score_keys(layer, head, unit, worker, [&](uint32_t key, uint32_t count, uint32_t lane, float* scores) {
        kernels_.fold_lines(scores, static_cast<int>(count), lines.maximum.data() + lane, inverse + lane,
                            lines.columns.data() + (key - begin), at_zero + (int64_t{first_query} + lane - key));
    });
    const LineBudget& budget = prefill_.stated->heads[size_t{layer} * h_.n_heads + head];
    ChosenLines& chosen = unit.heads[head];
    choose_columns(lines.columns, begin, budget.columns, lines.order, chosen.columns);
    choose_diagonals({at_zero, keys}, budget.diagonals, lines.order, chosen.diagonals);
    if (!prefill_.record) return;
    std::vector<uint32_t> words{layer, head, unit.first, unit.end, 0};
    for (const uint32_t column : chosen.columns) words.push_back(2 * column);
    for (const KeyRange& run : chosen.diagonals) {
        for (uint32_t distance = run.begin; distance < run.end; ++distance) words.push_back(2 * distance + 1);
    }
    words[4] = static_cast<uint32_t>(words.size() - 5);
    selection_.add(std::move(words));
}

/// Calls visit(key, count, lane, scores) for all keys of the unit's queries: scores (count, kPanelLanes) of keys from `key` on with
/// the choosing queries from lane `lane` on, minus infinity where a key comes after its query.
template <class Visit>
void CpuExecutor::score_keys(uint32_t layer, uint32_t head, const BudgetUnit& unit, Worker& worker, Visit visit) {
    LineScratch& lines = worker.lines;
    const SliceRows& slice = *unit.slice;
    const auto head_dim = static_cast<int>(h_.head_dim);
    const uint32_t first_query = unit.end - unit.choosing;
    const uint32_t kv_head = head / static_cast<uint32_t>(group_);
    const auto load_keys = kernels_.load_keys[static_cast<size_t>(cache_.type())];
    for (uint32_t range = range_count(whole_.scheme, unit.chunk); range-- > 0;) {
        const KeyRange keys = key_range(whole_.scheme, unit.chunk, static_cast<Range>(range), unit.end);
        rotate_choosing(layer, head, unit, range, worker);
        for (uint32_t key = keys.begin, next; key < keys.end; key = next) {
            next = std::min(keys.end, (key / kPageTokens + 1) * kPageTokens);
            const uint32_t skipped = key % kPanelLanes, count = next - key;
            const uint32_t place = slice.pages[key / kPageTokens] * kPageTokens + key % kPageTokens;
            const uint32_t rows = skipped + count;
            load_keys(view_of(slice, key, layer, kv_head), place / kPanelLanes, static_cast<int>((rows + kPanelLanes - 1) / kPanelLanes),
                      head_dim, lines.keys.data());
            for (uint32_t lane = 0; lane < unit.choosing; lane += kPanelLanes) {
                kernels_.score_means(lines.keys.data(), static_cast<int>(rows), lines.q.data() + size_t{lane} * h_.head_dim, head_dim,
                                     lines.scores.data());
                float* scores = lines.scores.data() + size_t{skipped} * kPanelLanes;
                hide_later_keys(scores, key, count, first_query + lane);
                visit(key, count, lane, scores);
            }
        }
    }
}

/// The choosing queries of a head, rotated for the keys of `range` as prepare_unit says, into lines.q.
void CpuExecutor::rotate_choosing(uint32_t layer, uint32_t head, const BudgetUnit& unit, uint32_t range, Worker& worker) {
    LineScratch& lines = worker.lines;
    const auto head_dim = static_cast<int>(h_.head_dim);
    const uint32_t lanes = whole_panels(unit.choosing);
    for (uint32_t lane = 0; lane < lanes; lane += kPanelLanes) {
        for (uint32_t t = 0; t < kPanelLanes; ++t) {
            const uint32_t query = std::min(unit.end - unit.choosing + lane + t, unit.end - 1);
            const uint32_t row = unit.slice->first_row + (query - unit.slice->start);
            const float* in = q_.panel(shape_.panel(row), shape_.lanes) + size_t{head} * h_.head_dim * shape_.lanes + shape_.lane(row);
            for (uint32_t d = 0; d < h_.head_dim; ++d) lines.raw[size_t{d} * kPanelLanes + t] = in[size_t{d} * shape_.lanes];
        }
        const size_t rotation = (size_t{range} * lanes + lane) * whole_.rope.n_frequencies;
        float* q = lines.q.data() + size_t{lane} * h_.head_dim;
        kernels_.rotate(lines.raw.data(), q, head_dim, n_frequencies(layer), h_.rope_layout, kPanelLanes, unit.cos.data() + rotation,
                        unit.sin.data() + rotation, unit.factor.data() + lane);
        if (turned_) kernels_.hadamard(q, head_dim, kPanelLanes);
    }
}

void CpuExecutor::find_lines(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, uint32_t begin, uint32_t end, Worker& worker) {
    const uint32_t chunk = begin / whole_.scheme.chunk_size;
    const auto unit =
        std::ranges::find_if(units_, [&](const BudgetUnit& each) { return each.slice == block.slice && each.chunk == chunk; });
    const uint32_t first = first_key(whole_.scheme, chunk);
    const uint64_t rows = end - begin;
    for (int g = 0; g < group_; ++g) {
        const uint32_t head = kv_head * static_cast<uint32_t>(group_) + static_cast<uint32_t>(g);
        BlockKeys& read = worker.lines.read[g];
        keys_of_block(unit->heads[head], begin, end, first, read);
        uint64_t before = read.singles.size();  // those from `begin` on are among the runs, as the distance 0 is
        for (const KeyRange& run : read.runs) before += std::min(run.end, begin) - std::min(run.begin, begin);
        PairCount& pairs = worker.pairs[size_t{layer} * h_.n_heads + head];
        pairs.seen += rows * (begin - first) + rows * (rows + 1) / 2;
        pairs.read += rows * before + rows * (rows + 1) / 2;
    }
}

/// The block's queries, in worker.q, against what find_lines found of `keys`.
void CpuExecutor::attend_lines(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Range range, KeyRange keys, Worker& worker) {
    LineScratch& lines = worker.lines;
    const std::span<const uint32_t> pages = block.slice->pages;
    const uint32_t fresh = block.slice->fresh_page;
    for (int g = 0; g < group_; ++g) {
        std::ranges::fill(lines.only, 0);
        lines.only[g] = 1;
        for (const KeyRange& run : lines.read[g].runs) {
            const KeyRange span{std::max(run.begin, keys.begin), std::min(run.end, keys.end)};
            for_page_runs(pages, span, fresh, [&](KeyRange part, int64_t shift) {
                attend_keys(layer, kv_head, block, part, shift, distances(whole_.scheme, range), lines.only.data(), worker);
            });
        }
        const std::vector<uint32_t>& singles = lines.read[g].singles;
        auto next = std::ranges::lower_bound(singles, keys.begin);
        while (next != singles.end() && *next < keys.end) {
            // A fresh page is read by itself, settled ones together.
            const uint32_t first = *next;
            const auto alone = [&](uint32_t key) { return std::max(key / kPageTokens + 1, fresh); };
            int count = 0;
            for (; count < kKeyTile && next != singles.end() && *next < keys.end && alone(*next) == alone(first); ++next, ++count)
                lines.gathered[count] = pages[*next / kPageTokens] * kPageTokens + *next % kPageTokens;
            attend_gathered(view_of(*block.slice, first, layer, kv_head), count, worker);
        }
    }
}

void CpuExecutor::attend_gathered(const CacheView& view, int count, Worker& worker) {
    LineScratch& lines = worker.lines;
    kernels_.gather_rows[static_cast<size_t>(cache_.type())](view, lines.gathered.data(), count, static_cast<int>(h_.head_dim),
                                                             lines.keys.data(), lines.values.data());
    const auto kernels = h_.attention_cap != 0.0f ? kernels_.attend_panel_capped : kernels_.attend_panel;
    kernels[static_cast<size_t>(CacheType::F32)]({.q = worker.q.data(),
                                                  .out = worker.out.data(),
                                                  .maximum = worker.maximum.data(),
                                                  .sum = worker.sum.data(),
                                                  .group = group_,
                                                  .head_dim = static_cast<int>(h_.head_dim),
                                                  .cache = {reinterpret_cast<const std::byte*>(lines.keys.data()),
                                                            reinterpret_cast<const std::byte*>(lines.values.data()), nullptr, nullptr},
                                                  .span = {0, static_cast<uint32_t>(count)},
                                                  .first_query = int64_t{kPageTokens},  // a gathered key comes before every query
                                                  .scratch = worker.attention.data(),
                                                  .cap = h_.attention_cap * kLog2E,
                                                  .heads = lines.only.data()});
}

}  // namespace dca::cpu
