// The attention of a step: which keys each query sees at which rotation (core/positions/scheme.h), and how
// that is spread over threads.
//
// Products share rows of all sequences; attention is a sequence's own. Its rows are cut into blocks: of up to a panel
// where a sequence brings several, of one row where it decodes, then in pieces of its keys. Blocks depend on nothing but
// their own sequence, so that the batch around it never changes what a sequence gets.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/engine/page_pool.h"
#include "cpu/executor/executor.h"
#include "cpu/executor/page_runs.h"

namespace dca::cpu {

namespace {

constexpr uint32_t kKeysAPiece = 256;  // decode: fewer keys are not worth a piece of their own

/// As for_page_runs for the pages of `range` that some head of the group reads; heads (group) says which heads do.
template <class Visit>
void for_chosen_runs(std::span<const uint32_t> pages, const PageChoice& choice, Range range, int group, uint32_t fresh, Visit visit) {
    const auto heads = [&](size_t i) { return std::span(choice.kept).subspan(i * group, group); };
    const auto follows = [&](size_t i) {
        const PagePiece &a = choice.pieces[i - 1], &b = choice.pieces[i];
        return b.page < fresh && b.range == range && pages[b.page] == pages[a.page] + 1 && std::ranges::equal(heads(i - 1), heads(i));
    };
    for (size_t i = 0, next; i < choice.pieces.size(); i = next) {
        next = i + 1;
        if (choice.pieces[i].range != range) continue;
        while (next < choice.pieces.size() && follows(next)) ++next;
        if (std::ranges::count(heads(i), 0) == group) continue;
        const uint32_t first = choice.pieces[i].page;
        visit(KeyRange{choice.pieces[i].keys.begin, choice.pieces[next - 1].keys.end}, (int64_t{pages[first]} - first) * kPageTokens,
              heads(i).data());
    }
}

KeyRange shifted(KeyRange span, int64_t shift) noexcept {
    return {static_cast<uint32_t>(span.begin + shift), static_cast<uint32_t>(span.end + shift)};
}

}  // namespace

void CpuExecutor::plan_attention(Reach& reach) {
    const Scheme& scheme = reach.scheme;
    const auto heads = static_cast<int>(h_.n_kv_heads);
    const int enough = (4 * pool_.threads() + heads - 1) / heads;
    reach.blocks.clear();
    reach.merges.clear();
    size_t partials = 0;
    for (const SliceRows& slice : slices_) {
        if (slice.rows >= kFewestForPanels) {
            // Blocks that choose pages begin at the same indices however the tokens are fed, and lie in one page.
            const bool chooses = prefill_.chooses() && reach.window == 0;
            for (uint32_t row = 0, count; row < slice.rows; row += count) {
                const uint32_t first = slice.start + row;
                count = std::min(chooses ? kPanelLanes - first % kPanelLanes : kPanelLanes, slice.rows - row);
                const uint64_t keys = uint64_t{first} + count - window_begin(reach.window, first);
                reach.blocks.push_back({.slice = &slice,
                                        .first_row = row,
                                        .rows = count,
                                        .cost = keys * kPanelLanes,
                                        .sparse = chooses && first >= prefill_.from && first + count <= slice.sparse_end});
            }
            continue;
        }
        for (uint32_t row = 0; row < slice.rows; ++row) {
            const uint32_t query = slice.start + row;
            const uint32_t begin = std::max(first_key(scheme, query / scheme.chunk_size), window_begin(reach.window, query));
            const KeyRange unseen = unseen_keys(scheme, query);
            const uint32_t gap = unseen.end - unseen.begin;
            const uint64_t seen = query + 1 - gap - begin;
            const uint32_t most = query + 1 - gap - window_begin(reach.window, query);
            const int pieces = std::clamp(static_cast<int>(most / kKeysAPiece), 1, enough);
            const auto border = [&](int p) {
                uint32_t at = begin + static_cast<uint32_t>(seen * p / pieces);
                if (at > unseen.begin) at += gap;
                return p == 0 || p == pieces ? at : std::max(begin, at / kPanelLanes * kPanelLanes);
            };
            for (int piece = 0; piece < pieces; ++piece) {
                const KeyRange span{border(piece), border(piece + 1)};
                reach.blocks.push_back({.slice = &slice,
                                        .first_row = row,
                                        .rows = 1,
                                        .cost = span.end - span.begin,
                                        .span = span,
                                        .piece = piece,
                                        .pieces = pieces,
                                        .partial = partials});
                partials += partial_floats() * heads;
                if (piece == 0) reach.merges.push_back(reach.blocks.back());
            }
        }
    }
    // The long ones first, so that no thread starts on one when the others are done.
    std::ranges::stable_sort(reach.blocks, std::greater(), &AttentionBlock::cost);
    if (partials_.size() < partials) partials_ = Buffer<float>(partials);
}

int CpuExecutor::n_frequencies(uint32_t layer) noexcept {
    return h_.layers[layer].rotated ? static_cast<int>(reach_of(layer).rope.n_frequencies) : 0;
}

void CpuExecutor::load_rotation(Worker& worker, const Reach& reach, const uint32_t* indices, int count, int lanes,
                                std::optional<Range> range) const {
    const Scheme& scheme = reach.scheme;
    const RopeTable& rope = reach.rope;
    for (int lane = 0; lane < lanes; ++lane) {
        const uint32_t i = indices[std::min(lane, count - 1)];  // results of lanes past the last row are never read
        const uint32_t position = range ? scheme.query_position(*range, i % scheme.chunk_size) : scheme.key_position(i);
        const float* cos = rope.cos_row(position);
        const float* sin = rope.sin_row(position);
        for (uint32_t j = 0; j < rope.n_frequencies; ++j) {
            worker.cos[size_t{j} * lanes + lane] = cos[j];
            worker.sin[size_t{j} * lanes + lane] = sin[j];
        }
        worker.factor[lane] = range ? scheme.logit_factor(i) * h_.attention_scale * kLog2E : 1.0f;
    }
}

void CpuExecutor::store_keys_values(uint32_t layer) {
    const auto type = static_cast<size_t>(cache_.type());
    const int head_dim = static_cast<int>(h_.head_dim);
    const int lanes = shape_.lanes;
    const Reach& reach = reach_of(layer);
    pool_.run(shape_.panels(), [&](int p, int worker_index) {
        Worker& worker = workers_[worker_index];
        const uint32_t first_row = static_cast<uint32_t>(p * lanes);
        const int count = shape_.rows_of(p);
        const uint32_t* places = places_.data() + first_row;
        load_rotation(worker, reach, indices_.data() + first_row, count, lanes, std::nullopt);
        for (uint32_t head = 0; head < h_.n_kv_heads; ++head) {
            const size_t at = size_t{head} * h_.head_dim * lanes;
            float* rotated = worker.q.data();
            kernels_.rotate(k_.panel(p, lanes) + at, rotated, head_dim, n_frequencies(layer), h_.rope_layout, lanes, worker.cos.data(),
                            worker.sin.data(), worker.factor.data());
            const float* values = v_.panel(p, lanes) + at;
            if (turned_) {
                float* turned = worker.out.data();
                std::copy_n(values, size_t{h_.head_dim} * lanes, turned);
                kernels_.hadamard(turned, head_dim, lanes);
                kernels_.hadamard(rotated, head_dim, lanes);
                values = turned;
            }
            for (int lane = 0, next = 0; lane < count; lane = next) {
                const uint32_t page = places[lane] / kPageTokens;
                const auto follows = [&](int i) { return places[i] == places[i - 1] + 1 && places[i] / kPageTokens == page; };
                for (next = lane + 1; next < count && follows(next);) ++next;
                kernels_.store_keys[type](rotated + lane, head_dim, lanes, next - lane, cache_.keys(layer, head),
                                          cache_.key_affine(layer, head), places[lane], cache_.fine_keys(layer, head, page),
                                          cache_.view(layer, head).centres);
                kernels_.store_values[type](values + lane, head_dim, lanes, next - lane, cache_.values(layer, head),
                                            cache_.value_affine(layer, head), places[lane], cache_.fine_values(layer, head, page));
            }
        }
    });
    if (!filled_.empty()) store_means(layer);
}

void CpuExecutor::settle_pages() {
    const auto heads = static_cast<int>(h_.n_kv_heads);
    for (const auto& [page, first] : cache_.filled()) {
        pool_.run(static_cast<int>(h_.n_layers) * heads, [&](int task, int) {
            const CacheView view = cache_.view_to_settle(static_cast<uint32_t>(task / heads), static_cast<uint32_t>(task % heads), page);
            kernels_.settle_keys(view, page * kPageTokens, static_cast<int>(h_.head_dim), first);
        });
    }
}

const float* CpuExecutor::query_heads(uint32_t kv_head, uint32_t row, int count, int lanes, Worker& worker) {
    const size_t width = static_cast<size_t>(group_) * h_.head_dim;
    const float* panel = q_.panel(shape_.panel(row), shape_.lanes) + kv_head * width * shape_.lanes;
    if (lanes == shape_.lanes && shape_.lane(row) == 0) return panel;
    for (int lane = 0; lane < lanes; ++lane) {
        const uint32_t from = row + static_cast<uint32_t>(std::min(lane, count - 1));
        const float* in = q_.panel(shape_.panel(from), shape_.lanes) + kv_head * width * shape_.lanes + shape_.lane(from);
        for (size_t f = 0; f < width; ++f) worker.gathered[f * lanes + lane] = in[f * shape_.lanes];
    }
    return worker.gathered.data();
}

void CpuExecutor::rotate_queries(const float* q, uint32_t layer, const uint32_t* indices, int count, int lanes, Range range,
                                 Worker& worker) {
    load_rotation(worker, reach_of(layer), indices, count, lanes, range);
    const size_t head_values = size_t{h_.head_dim} * lanes;
    for (int g = 0; g < group_; ++g) {
        kernels_.rotate(q + g * head_values, worker.q.data() + g * head_values, static_cast<int>(h_.head_dim), n_frequencies(layer),
                        h_.rope_layout, lanes, worker.cos.data(), worker.sin.data(), worker.factor.data());
        if (turned_) kernels_.hadamard(worker.q.data() + g * head_values, static_cast<int>(h_.head_dim), lanes);
    }
}

void CpuExecutor::start_softmax(uint32_t layer, uint32_t kv_head, int lanes, float* maximum, float* sum, bool sink) const {
    const std::vector<float>& sinks = w_.layers[layer].sinks;
    const size_t count = static_cast<size_t>(group_) * lanes;
    std::fill_n(maximum, count, -INFINITY);
    std::fill_n(sum, count, 0.0f);
    if (sinks.empty() || !sink) return;
    for (size_t i = 0; i < count; ++i) {
        maximum[i] = sinks[size_t{kv_head} * group_ + i / lanes] * kLog2E;
        sum[i] = 1.0f;
    }
}

void CpuExecutor::attend(uint32_t layer) {
    const auto heads = static_cast<int>(h_.n_kv_heads);
    const Reach& reach = reach_of(layer);
    choose_lines(layer);
    pool_.run(static_cast<int>(reach.blocks.size()) * heads, [&](int task, int worker) {
        const AttentionBlock& block = reach.blocks[task / heads];
        const auto head = static_cast<uint32_t>(task % heads);
        if (block.pieces == 0) return attend_panel(layer, head, block, workers_[worker]);
        attend_piece(layer, head, block, workers_[worker]);
    });
    constexpr size_t worth_a_loop = 4;
    if (reach.merges.size() < worth_a_loop) {
        for (const AttentionBlock& first : reach.merges) merge_pieces(first);
    } else {
        pool_.run(static_cast<int>(reach.merges.size()), [&](int row, int) { merge_pieces(reach.merges[row]); });
    }
}

void CpuExecutor::attend_panel(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Worker& worker) {
    const size_t head_values = size_t{h_.head_dim} * kPanelLanes;
    const SliceRows& slice = *block.slice;
    const uint32_t row = slice.first_row + block.first_row;
    const auto count = static_cast<int>(block.rows);
    const uint32_t first_query = slice.start + block.first_row;
    const uint32_t last_query = first_query + block.rows - 1;
    const float* q = query_heads(kv_head, row, count, kPanelLanes, worker);
    const Reach& reach = reach_of(layer);
    const Scheme& scheme = reach.scheme;
    // A block that straddles a chunk border runs once a chunk and keeps that chunk's lanes.
    for (uint32_t begin = first_query; begin <= last_query;) {
        const uint32_t chunk = begin / scheme.chunk_size;
        const uint32_t end = std::min<uint64_t>(last_query, (uint64_t{chunk} + 1) * scheme.chunk_size - 1) + 1;
        std::fill_n(worker.out.data(), head_values * group_, 0.0f);
        start_softmax(layer, kv_head, kPanelLanes, worker.maximum.data(), worker.sum.data(), true);
        const bool lines = block.sparse && prefill_.stated != nullptr;
        if (lines) {
            find_lines(layer, kv_head, block, begin, end, worker);
        } else if (block.sparse) {
            choose_pages(layer, kv_head, block, q, begin, end, worker);
        }
        if (prefill_.chooses() && reach.window == 0 && !lines) note_choice(layer, kv_head, block.sparse, begin, end, worker);
        for (uint32_t range = range_count(scheme, chunk, end); range-- > 0;) {
            const auto which = static_cast<Range>(range);
            KeyRange keys = key_range(scheme, chunk, which, end);
            keys.begin = std::max(first_of_range(scheme, which, keys, begin), window_begin(reach.window, begin));
            if (keys.begin >= keys.end) continue;
            rotate_queries(q, layer, indices_.data() + row, count, kPanelLanes, which, worker);
            const auto attend_run = [&](KeyRange span, int64_t shift, const uint8_t* heads) {
                attend_keys(layer, kv_head, block, span, shift, distances(scheme, which), heads, worker);
            };
            if (lines) {
                attend_lines(layer, kv_head, block, which, keys, worker);
            } else if (block.sparse) {
                for_chosen_runs(slice.pages, worker.choice, which, group_, slice.fresh_page, attend_run);
            } else {
                for_page_runs(slice.pages, keys, slice.fresh_page, [&](KeyRange span, int64_t shift) { attend_run(span, shift, nullptr); });
            }
        }

        // The chunk's rows of this head, each in its own lane of the step's panels.
        const auto first_lane = static_cast<int>(begin - first_query);
        const auto last_lane = static_cast<int>(end - first_query);
        for (int g = 0; g < group_; ++g) {
            if (turned_) kernels_.hadamard(worker.out.data() + g * head_values, static_cast<int>(h_.head_dim), kPanelLanes);
            float inverse[kPanelLanes];
            for (int lane = 0; lane < kPanelLanes; ++lane) inverse[lane] = 1.0f / worker.sum[g * kPanelLanes + lane];
            const size_t feature = (size_t{kv_head} * group_ + g) * h_.head_dim;
            for (int lane = first_lane, next = 0; lane < last_lane; lane = next) {
                const uint32_t to = row + static_cast<uint32_t>(lane);
                next = std::min(last_lane, lane + kPanelLanes - shape_.lane(to));
                float* out = a_.panel(shape_.panel(to), kPanelLanes) + feature * kPanelLanes + shape_.lane(to) - lane;
                for (uint32_t d = 0; d < h_.head_dim; ++d) {
                    const float* in = worker.out.data() + g * head_values + d * kPanelLanes;
                    for (int t = lane; t < next; ++t) out[d * kPanelLanes + t] = in[t] * inverse[t];
                }
            }
        }
        begin = end;
    }
}

CacheView CpuExecutor::view_of(const SliceRows& slice, uint32_t first, uint32_t layer, uint32_t kv_head) const noexcept {
    CacheView view = cache_.view(layer, kv_head);
    if (const uint32_t page = first / kPageTokens; page >= slice.fresh_page) {
        view.fine_keys = cache_.fine_keys(layer, kv_head, slice.pages[page]);
        view.fine_values = cache_.fine_values(layer, kv_head, slice.pages[page]);
    }
    return view;
}

/// The block's queries, in worker.q, against keys at span + shift of the head's cache.
void CpuExecutor::attend_keys(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, KeyRange span, int64_t shift, Distances seen,
                              const uint8_t* heads, Worker& worker) {
    const auto kernels = h_.attention_cap != 0.0f ? kernels_.attend_panel_capped : kernels_.attend_panel;
    if (const uint32_t window = reach_of(layer).window; window != 0) seen.below = std::min(seen.below, window);
    // A query that sees what lies `least` keys before it and earlier is to the kernel one that stands there.
    kernels[static_cast<size_t>(cache_.type())]({.q = worker.q.data(),
                                                 .out = worker.out.data(),
                                                 .maximum = worker.maximum.data(),
                                                 .sum = worker.sum.data(),
                                                 .group = group_,
                                                 .head_dim = static_cast<int>(h_.head_dim),
                                                 .cache = view_of(*block.slice, span.begin, layer, kv_head),
                                                 .span = shifted(span, shift),
                                                 .first_query = int64_t{block.slice->start} + block.first_row + shift - seen.least,
                                                 .scratch = worker.attention.data(),
                                                 .window = seen.below < Scheme::kEndless ? int64_t{seen.below} - seen.least : kNoWindow,
                                                 .cap = h_.attention_cap * kLog2E,
                                                 .heads = heads});
}

size_t CpuExecutor::partial_floats() const noexcept { return static_cast<size_t>(group_) * (h_.head_dim + 2); }

/// One query's heads of a key head against the keys of the block's piece; its partial gets out, maximum, sum.
void CpuExecutor::attend_piece(uint32_t layer, uint32_t kv_head, const AttentionBlock& block, Worker& worker) {
    const SliceRows& slice = *block.slice;
    const uint32_t row = slice.first_row + block.first_row;
    const uint32_t query = slice.start + block.first_row;
    const Scheme& scheme = reach_of(layer).scheme;
    const uint32_t chunk = query / scheme.chunk_size;
    const auto kernel = (h_.attention_cap != 0.0f ? kernels_.attend_row_capped : kernels_.attend_row)[static_cast<size_t>(cache_.type())];
    float* partial = partials_.data() + block.partial + kv_head * partial_floats();
    float* maximum = partial + static_cast<size_t>(group_) * h_.head_dim;
    float* sum = maximum + group_;
    std::fill_n(partial, static_cast<size_t>(group_) * h_.head_dim, 0.0f);
    start_softmax(layer, kv_head, 1, maximum, sum, block.piece == 0);
    const float* q = query_heads(kv_head, row, 1, 1, worker);
    for (uint32_t range = range_count(scheme, chunk, query + 1); range-- > 0;) {
        const KeyRange keys = key_range(scheme, chunk, static_cast<Range>(range), query + 1);
        const uint32_t first = first_of_range(scheme, static_cast<Range>(range), keys, query);
        const KeyRange seen{std::max(first, block.span.begin), std::min(keys.end, block.span.end)};
        if (seen.begin >= seen.end) continue;
        rotate_queries(q, layer, &query, 1, 1, static_cast<Range>(range), worker);
        for_page_runs(slice.pages, seen, slice.fresh_page, [&](KeyRange span, int64_t shift) {
            kernel({.q = worker.q.data(),
                    .out = partial,
                    .maximum = maximum,
                    .sum = sum,
                    .group = group_,
                    .head_dim = static_cast<int>(h_.head_dim),
                    .cache = view_of(slice, span.begin, layer, kv_head),
                    .span = shifted(span, shift),
                    .cap = h_.attention_cap * kLog2E});
        });
    }
}

/// The softmaxes of a row's pieces, of which `first` is the first, merged at their common maximum.
void CpuExecutor::merge_pieces(const AttentionBlock& first) {
    const size_t stride = partial_floats() * h_.n_kv_heads;  // from a piece to the next
    const uint32_t row = first.slice->first_row + first.first_row;
    for (uint32_t head = 0; head < h_.n_heads; ++head) {
        const size_t g = head % static_cast<uint32_t>(group_);
        const float* partial = partials_.data() + first.partial + head / static_cast<uint32_t>(group_) * partial_floats();
        const auto maximum = [&](int piece) { return partial[piece * stride + static_cast<size_t>(group_) * h_.head_dim + g]; };
        const auto sum = [&](int piece) { return partial[piece * stride + static_cast<size_t>(group_) * h_.head_dim + group_ + g]; };
        float top = -INFINITY;
        for (int piece = 0; piece < first.pieces; ++piece) top = std::max(top, maximum(piece));
        float merged[kMaxHeadDim] = {};
        float total = 0.0f;
        for (int piece = 0; piece < first.pieces; ++piece) {
            const float share = std::exp2(maximum(piece) - top);
            total += share * sum(piece);
            const float* part = partial + piece * stride + g * h_.head_dim;
            for (uint32_t d = 0; d < h_.head_dim; ++d) merged[d] += share * part[d];
        }
        if (turned_) kernels_.hadamard(merged, static_cast<int>(h_.head_dim), 1);
        float* out = a_.panel(shape_.panel(row), shape_.lanes) + size_t{head} * h_.head_dim * shape_.lanes + shape_.lane(row);
        for (uint32_t d = 0; d < h_.head_dim; ++d) out[size_t{d} * shape_.lanes] = merged[d] / total;
    }
}

}  // namespace dca::cpu
