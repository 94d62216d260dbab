// Stated budgets on an NVIDIA GPU (docs/sparse.md): the last queries of a unit choose columns and diagonals for all of it,
// each head as many as the file states for it, and what its blocks of queries read becomes lists of pages with masks of keys.
// Launch functions as of attention/attention.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/positions/sparse_prefill.h"
#include "cuda/attention/attention.h"
#include "cuda/attention/page_lists.h"

namespace dca::cuda {

/// RoPE, for positions that no table has: choosing queries are not held at c - 1.
struct LineRotation {
    const float* radians;  // (rotary_dim / 2) in device memory: of a position
    double magnitude;
    uint32_t last_position;  // c - 1
};

struct LineArgs {
    AttentionShape shape;        // of a size that fast_shape() takes
    Scheme scheme;               // whose border does not move
    LayerCache cache;            // which already holds the unit's keys
    const uint32_t* page_table;  // as of PrefillArgs, like what follows
    const void* q;
    int64_t q_stride;
    Dtype dtype;
    uint32_t start, n_queries;  // the unit: queries of one chunk
    uint32_t fresh_page;
    LineRotation rotation;
    uint32_t last_queries;       // that choose, or all where there are fewer
    const LineBudget* budgets;   // (n_heads) in device memory
    uint32_t* columns;           // (n_heads, words), as LineBits has them
    uint32_t* diagonals;         // likewise
    uint32_t words;              // line_words() of the end of the unit at least
    ListedBlock* blocks;         // (n_heads, select_blocks())
    ListedPage* pages;           // (n_heads, select_blocks(), select_most_pages())
    std::byte* workspace;        // 256-byte aligned
    size_t workspace_bytes;      // line_workspace_bytes() of at least one head; of more is faster
    unsigned long long* unread;  // as of SelectArgs
};

/// Columns, diagonals and the lists of every head and block of queries.
cudaError_t choose_lines(const Card& card, const LineArgs& args, cudaStream_t stream);

/// Device bytes with which so many heads choose at a time.
size_t line_workspace_bytes(const AttentionShape& shape, uint32_t context, uint32_t last_queries, uint32_t heads);

}  // namespace dca::cuda
