// The work space of prompts that read less than everything, in an engine's steps.
#pragma once

#include <algorithm>

#include "core/hparams.h"
#include "cuda/device/resources.h"
#include "cuda/sparse/select_pages.h"
#include "cuda/sparse/stated/choose_lines.h"

namespace dca::cuda {

/// Of either kind of choice: lists of pages, and what was left out.
struct ListMemory {
    ListedBlock* blocks = nullptr;
    ListedPage* pages = nullptr;
    unsigned long long* unread = nullptr;  // (n_layers, n_heads)

    /// For steps of `rows` rows over a pool of `tokens` tokens.
    void place(Arena& scratch, const Hparams& h, const Scheme& scheme, uint32_t rows, uint32_t tokens) {
        const uint32_t most_blocks = rows / kPageTokens + rows / scheme.chunk_size + 3;  // of a slice
        const size_t lists = size_t{h.n_heads} * most_blocks;
        blocks = scratch.take<ListedBlock>(lists);
        pages = scratch.take<ListedPage>(lists * select_most_pages(tokens));
        unread = scratch.take<unsigned long long>(size_t{h.n_layers} * h.n_heads);
    }
};

/// Of sparse prefill.
struct SparseMemory {
    ListMemory lists;
    FilledPage* filled = nullptr;  // (most_filled)
    std::byte* select = nullptr;   // select_workspace_bytes()
    uint32_t most_filled = 0;

    /// The same for steps of `slices` slices at most.
    void place(Arena& scratch, const Hparams& h, const Card& card, const Scheme& scheme, uint32_t rows, uint32_t slices, uint32_t tokens) {
        lists.place(scratch, h, scheme, rows, tokens);
        // Each page of the pool whose means are missing, and those that the step fills.
        most_filled = pages_for(tokens) + pages_for(rows) + slices;
        filled = scratch.take<FilledPage>(most_filled);
        select = scratch.take<std::byte>(select_workspace_bytes(card, scheme, tokens));
    }
};

/// Of stated budgets.
struct LineMemory {
    static constexpr size_t kMostWorkspace = size_t{256} << 20;  // heads choose together as far as they fit into it

    ListMemory lists;
    LineBudget* budgets = nullptr;  // (n_layers, n_heads)
    float* radians = nullptr;       // (rotary_dim / 2)
    uint32_t* columns = nullptr;    // (n_heads, words)
    uint32_t* diagonals = nullptr;  // likewise
    std::byte* workspace = nullptr;
    size_t workspace_bytes = 0;
    uint32_t words = 0;

    void place(Arena& scratch, const Hparams& h, const AttentionShape& shape, const Scheme& scheme, uint32_t last_queries, uint32_t rows,
               uint32_t tokens) {
        lists.place(scratch, h, scheme, rows, tokens);
        budgets = scratch.take<LineBudget>(size_t{h.n_layers} * h.n_heads);
        radians = scratch.take<float>(h.rotary_dim / 2);
        words = line_words(tokens);
        columns = scratch.take<uint32_t>(size_t{h.n_heads} * words);
        diagonals = scratch.take<uint32_t>(size_t{h.n_heads} * words);
        uint32_t heads = h.n_heads;
        while (heads > 1 && line_workspace_bytes(shape, tokens, last_queries, heads) > kMostWorkspace) heads = (heads + 1) / 2;
        workspace_bytes = line_workspace_bytes(shape, tokens, last_queries, heads);
        workspace = scratch.take<std::byte>(workspace_bytes);
    }
};

}  // namespace dca::cuda
