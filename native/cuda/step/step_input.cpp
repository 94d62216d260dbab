#include "cuda/step/step_input.h"

#include <algorithm>
#include <numeric>

#include "core/engine/page_pool.h"
#include "cuda/step/shared_prefixes.h"

namespace dca::cuda {

namespace {

constexpr size_t kPartAlignment = 16;

/// Slices of one row, then those of which at most one row is wanted, then the rest: single rows come first among all rows
/// and among those kept.
int place_in_order(const Slice& slice) noexcept { return slice.rows() == 1 ? 0 : slice.wanted <= 1 ? 1 : 2; }

}  // namespace

StepInput::StepInput(uint32_t rows, uint32_t decode_rows, uint32_t pages, const Scheme& scheme, uint32_t group_rows)
    : scheme_(scheme), decode_rows_(decode_rows), group_rows_(group_rows) {
    reserve(rows * (2 * sizeof(DecodeRow) + 4 * sizeof(uint32_t)) + decode_rows / 2 * sizeof(DecodeGroup) +
            (size_t{pages} + decode_rows) * sizeof(uint32_t) + 9 * kPartAlignment);
}

bool StepInput::make_room(const Batch& batch, uint32_t padding) {
    size_t rows = padding, single = padding, wanted = 0, pages = 0;
    for (const Slice& slice : batch.slices) {
        rows += slice.rows();
        single += cut(batch) ? slice.rows() : slice.rows() == 1;
        wanted += slice.wanted;
        pages += pages_for(slice.end());
    }
    // One row's layout is the same whether it is wanted or not: its page table stays where it is.
    const bool all_kept = wanted == rows - padding || rows == 1;
    size_t bytes = 0;
    const auto place = [&]<class T>(Part<T>& part, size_t count) {
        part.offset = bytes;
        bytes += (count * sizeof(T) + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    };
    place(tokens_, rows);
    place(indices_, rows);
    place(places_, rows);
    place(decode_, single);
    place(kept_decode_, all_kept ? 0 : batch.slices.size());
    place(kept_rows_, all_kept ? 0 : wanted);
    n_groups_ = group_rows_ >= 2 && cut(batch) ? static_cast<uint32_t>(rows / 2) : 0;
    place(groups_, n_groups_);
    place(tables_, pages);
    bytes_ = bytes;
    if (bytes <= capacity_) return false;
    reserve(std::max(bytes, 2 * capacity_));
    return true;
}

void StepInput::reserve(size_t capacity) {
    host_.reset();
    device_.reset();
    capacity_ = 0;
    one_table_.clear();
    host_ = allocate_pinned(capacity, "describing a step");
    device_ = allocate_device(capacity, "describing a step");
    capacity_ = capacity;
}

void StepInput::order_slices(const Batch& batch) {
    order_.resize(batch.slices.size());
    std::iota(order_.begin(), order_.end(), 0u);
    std::ranges::stable_sort(order_, {}, [&](uint32_t slice) { return place_in_order(batch.slices[slice]); });
    first_wanted_.resize(batch.slices.size());
    uint32_t wanted = 0;
    for (size_t i = 0; i < batch.slices.size(); ++i) {
        first_wanted_[i] = wanted;
        wanted += batch.slices[i].wanted;
    }
}

void StepInput::write(const Batch& batch) {
    const uint32_t n_wanted = batch.wanted(), n_rows = batch.rows();
    const bool all_kept = n_wanted == n_rows, cut_rows = cut(batch);
    all_ = {.rows = 0, .single = 0, .decode = on_device(decode_), .groups = nullptr, .n_groups = 0, .longer = {}};
    kept_ = {.rows = 0, .single = 0, .decode = on_device(kept_decode_), .groups = nullptr, .n_groups = 0, .longer = {}};
    kept_order_.clear();
    kept_in_one_run_ = true;
    first_kept_ = 0;
    uint32_t table = 0;  // entries so far
    for (const uint32_t number : order_) {
        const Slice& slice = batch.slices[number];
        const uint32_t pages = pages_for(slice.end());
        std::copy_n(slice.pages.begin(), pages, on_host(tables_) + table);
        for (uint32_t i = 0; i < slice.rows(); ++i) {
            const uint32_t index = slice.start + i, row = all_.rows + i;
            on_host(tokens_)[row] = slice.tokens[i];
            on_host(indices_)[row] = index;
            on_host(places_)[row] = slice.pages[index / kPageTokens] * kPageTokens + index % kPageTokens;
        }
        const uint32_t fresh = slice.start / kPageTokens;
        const DecodeRow newest{slice.end(), table, 0, fresh};
        const uint32_t* page_table = on_device(tables_) + table;
        if (slice.rows() == 1 || cut_rows) {
            for (uint32_t i = 1; i <= slice.rows(); ++i) on_host(decode_)[all_.single++] = {slice.start + i, table, 0, fresh};
        } else {
            all_.longer.push_back({all_.rows, slice.rows(), slice.start, fresh, page_table, slice.sparse_end});
        }
        const uint32_t dropped = slice.rows() - slice.wanted;
        if (slice.wanted == 1) {
            if (!all_kept) on_host(kept_decode_)[kept_.single] = newest;
            ++kept_.single;
        } else if (slice.wanted > 1) {
            kept_.longer.push_back({kept_.rows, slice.wanted, slice.start + dropped, fresh, page_table, slice.sparse_end});
        }
        for (uint32_t i = 0; i < slice.wanted; ++i) {
            const uint32_t row = all_.rows + dropped + i;
            if (kept_.rows == 0) first_kept_ = row;
            kept_in_one_run_ = kept_in_one_run_ && row == first_kept_ + kept_.rows;
            if (!all_kept) on_host(kept_rows_)[kept_.rows] = row;
            kept_order_.push_back(first_wanted_[number] + i);
            ++kept_.rows;
        }
        all_.rows += slice.rows();
        table += pages;
    }
    if (all_kept) kept_ = all_;
}

void StepInput::pad(uint32_t padding, uint32_t padding_page) {
    for (uint32_t i = 0; i < padding; ++i) {
        const uint32_t row = all_.rows + i;
        on_host(tokens_)[row] = 0;
        on_host(indices_)[row] = 0;
        on_host(places_)[row] = padding_page * kPageTokens + i % kPageTokens;
        on_host(decode_)[row] = {0, 0, 0, 0};
    }
    all_.rows += padding;
    all_.single += padding;
    if (padding != 0) kept_ = all_;
}

void StepInput::group(const Batch& batch) {
    std::vector<LoneRow> rows;
    for (const uint32_t number : order_) {
        const Slice& slice = batch.slices[number];
        for (uint32_t i = 1; i <= slice.rows(); ++i) rows.push_back({slice.pages, slice.start + i});
    }
    const std::vector<DecodeGroup> groups = find_groups(rows, scheme_, group_rows_);
    if (groups.empty()) return;
    std::fill_n(std::copy(groups.begin(), groups.end(), on_host(groups_)), n_groups_ - groups.size(), DecodeGroup{});
    for (const DecodeGroup& group : groups) {
        for (uint32_t n = 0; n < group.rows; ++n) on_host(decode_)[group.row[n]].shared = group.shared;
    }
    all_.groups = on_device(groups_);
    all_.n_groups = n_groups_;
    kept_ = all_;
}

bool StepInput::set(const Batch& batch, uint32_t padding, uint32_t padding_page) {
    const bool moved = make_room(batch, padding);
    order_slices(batch);
    write(batch);
    pad(padding, padding_page);
    if (n_groups_ != 0) group(batch);
    return moved;
}

void StepInput::upload(cudaStream_t stream) {
    if (all_.rows == 1) {
        // A sequence's table is the same for a page's tokens: most steps copy nothing.
        const std::span table(on_host(tables_), (bytes_ - tables_.offset) / sizeof(uint32_t));
        if (std::ranges::equal(table, one_table_)) return;
        check(cudaMemcpyAsync(device_.get() + tables_.offset, host_.get() + tables_.offset, bytes_ - tables_.offset, cudaMemcpyHostToDevice,
                              stream),
              "describing a step");
        one_table_.assign(table.begin(), table.end());
        return;
    }
    one_table_.clear();
    check(cudaMemcpyAsync(device_.get(), host_.get(), bytes_, cudaMemcpyHostToDevice, stream), "describing a step");
}

}  // namespace dca::cuda
