// What a step is, as its kernels read it: one block of device memory, filled by one copy from pinned host memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/backend/batch.h"
#include "cuda/attention/attention.h"
#include "cuda/device/resources.h"

namespace dca::cuda {

/// Rows of one sequence that attend together.
struct SliceRows {
    uint32_t first_row, rows;
    uint32_t start;              // index of the first one's token
    uint32_t fresh_page;         // the first page that the step writes to
    const uint32_t* page_table;  // device memory
    uint32_t sparse_end = 0;     // queries at indices below may be attended sparsely
};

/// Some of a step's rows: first those that are alone in their sequence, then the longer slices.
struct RowGroup {
    uint32_t rows = 0;
    uint32_t single = 0;                  // how many are alone, or attend as if they were
    const DecodeRow* decode = nullptr;    // (single) in device memory
    const DecodeGroup* groups = nullptr;  // (n_groups) of these, in device memory
    uint32_t n_groups = 0;
    std::vector<SliceRows> longer;
};

class StepInput {
public:
    /// Has room for steps of so many rows, of which decode_rows may attend alone, over so many pages of a pool; steps whose
    /// sequences share many of them make it grow. Attention takes groups of `group_rows` rows at most.
    StepInput(uint32_t rows, uint32_t decode_rows, uint32_t pages, const Scheme& scheme, uint32_t group_rows);

    /// Lays out a batch, in an order of its own (see kept_order), and `padding` more rows of no sequence, which write to
    /// `padding_page`; those only for a batch of single rows. The step before must have ended. True if the device
    /// memory moved: recordings that read it are void.
    bool set(const Batch& batch, uint32_t padding, uint32_t padding_page);

    /// Copies it to the device, but the head of a step of one row: that is left to the kernel that embeds its token.
    void upload(cudaStream_t stream);

    /// The head of a step of one row: tokens, indices, places, decode rows. Words of 4 bytes.
    const uint32_t* head_on_host() const noexcept { return reinterpret_cast<const uint32_t*>(host_.get()); }
    uint32_t* head() const noexcept { return reinterpret_cast<uint32_t*>(device_.get()); }
    uint32_t head_words() const noexcept { return static_cast<uint32_t>(tables_.offset / sizeof(uint32_t)); }

    // Device memory, by row.
    const int32_t* tokens() const noexcept { return on_device(tokens_); }
    const uint32_t* indices() const noexcept { return on_device(indices_); }
    const uint32_t* places() const noexcept { return on_device(places_); }
    const uint32_t* page_tables() const noexcept { return on_device(tables_); }

    const RowGroup& all() const noexcept { return all_; }
    const RowGroup& kept() const noexcept { return kept_; }

    /// Whether rows share their first pages, in a step of rows that are all alone and wanted.
    bool grouped() const noexcept { return all_.n_groups != 0; }

    /// Of each row kept, which of all rows it is, ascending: in device memory, and whether they follow each other from
    /// first_kept() on.
    const uint32_t* kept_rows() const noexcept { return on_device(kept_rows_); }
    bool kept_in_one_run() const noexcept { return kept_in_one_run_; }
    uint32_t first_kept() const noexcept { return first_kept_; }
    /// Of each row kept, which of the batch's wanted rows it is.
    const std::vector<uint32_t>& kept_order() const noexcept { return kept_order_; }

private:
    template <class T>
    struct Part {
        size_t offset = 0;
    };
    template <class T>
    T* on_host(Part<T> part) const noexcept {
        return reinterpret_cast<T*>(host_.get() + part.offset);
    }
    template <class T>
    const T* on_device(Part<T> part) const noexcept {
        return reinterpret_cast<const T*>(device_.get() + part.offset);
    }

    void reserve(size_t capacity);
    bool make_room(const Batch& batch, uint32_t padding);
    void order_slices(const Batch& batch);
    void write(const Batch& batch);
    void pad(uint32_t padding, uint32_t padding_page);
    void group(const Batch& batch);
    /// Whether the step's slices are cut into rows that attend alone: so few of each sequence, all of them wanted. Such steps
    /// are recorded like those of single rows.
    bool cut(const Batch& batch) const { return batch.rows() <= decode_rows_ && batch.decode(kMostGuessedRows); }

    Scheme scheme_;
    uint32_t decode_rows_, group_rows_;
    PinnedMemory host_;
    DeviceMemory device_;
    size_t capacity_ = 0, bytes_ = 0;
    Part<int32_t> tokens_;
    Part<uint32_t> indices_, places_, kept_rows_, tables_;
    Part<DecodeRow> decode_, kept_decode_;
    Part<DecodeGroup> groups_;
    uint32_t n_groups_ = 0;  // that there is room for, whatever the rows share

    RowGroup all_, kept_;
    bool kept_in_one_run_ = false;
    uint32_t first_kept_ = 0;
    std::vector<uint32_t> kept_order_;

    std::vector<uint32_t> order_;         // of slices
    std::vector<uint32_t> first_wanted_;  // of each slice, among the batch's wanted rows
    std::vector<uint32_t> one_table_;     // what the device holds of the table of a step of one row; empty: nothing
};

}  // namespace dca::cuda
