// The work space of sparse prefill in an engine's steps.
#pragma once

#include "core/hparams.h"
#include "cuda/device/resources.h"
#include "cuda/sparse/select_pages.h"

namespace dca::cuda {

struct SparseMemory {
    FilledPage* filled = nullptr;  // (most_filled)
    ListedBlock* blocks = nullptr;
    ListedPage* pages = nullptr;
    std::byte* select = nullptr;           // select_workspace_bytes()
    unsigned long long* unread = nullptr;  // (n_layers, n_heads)
    uint32_t most_filled = 0;
    uint32_t most_blocks = 0;  // of a slice

    /// For steps of `rows` rows and `slices` slices over a pool of `tokens` tokens.
    void place(Arena& scratch, const Hparams& h, const Card& card, const Scheme& scheme, uint32_t rows, uint32_t slices, uint32_t tokens) {
        // Each page of the pool whose means are missing, and those that the step fills.
        most_filled = pages_for(tokens) + pages_for(rows) + slices;
        most_blocks = rows / kPageTokens + rows / scheme.chunk_size + 3;
        const size_t lists = size_t{h.n_heads} * most_blocks;
        filled = scratch.take<FilledPage>(most_filled);
        blocks = scratch.take<ListedBlock>(lists);
        pages = scratch.take<ListedPage>(lists * select_most_pages(tokens));
        select = scratch.take<std::byte>(select_workspace_bytes(card, scheme, tokens));
        unread = scratch.take<unsigned long long>(size_t{h.n_layers} * h.n_heads);
    }
};

}  // namespace dca::cuda
