// Sparse prefill's choice of pages on an NVIDIA GPU (docs/sparse.md): the mean keys of pages, and the lists of pages that
// blocks of queries read, by their own queries against those means. Launch functions as of attention/attention.h.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cuda/attention/attention.h"
#include "cuda/attention/page_lists.h"

namespace dca::cuda {

/// A full page: which of its sequence, which of the cache.
struct FilledPage {
    uint32_t index, page;
};

/// Two means a page and key head, one for each side of the chunk border that cuts it (the first before, or of the whole
/// page), in f16 whatever the cache's type.
constexpr uint32_t kPageSides = 2;

struct MeanArgs {
    AttentionShape shape;
    Scheme scheme;
    LayerCache cache;
    const FilledPage* pages;  // (n_pages) in device memory
    uint32_t n_pages;
    __half* means;  // (cache.pages, n_kv_heads, kPageSides, head_dim); 16-byte aligned
};

/// Writes the mean keys of pages of one layer. Head sizes that are multiples of 8, of 32 where the cache is a Q4 one; any cache
/// but F32.
cudaError_t mean_keys(const MeanArgs& args, cudaStream_t stream);

struct SelectArgs {
    AttentionShape shape;  // of a size that fast_shape() takes
    Scheme scheme;         // of chunks of at least a page
    RotaryTable rotary;
    const uint32_t* page_table;  // as of PrefillArgs; all full pages before the last query's have their means
    const __half* means;         // (pages, n_kv_heads, kPageSides, head_dim)
    const void* q;               // as of PrefillArgs, like what follows
    int64_t q_stride;
    Dtype dtype;
    uint32_t start, n_queries;
    float alpha;
    float forced_share;          // of the pages that a query sees; negative: alpha decides (force_density)
    ListedBlock* blocks;         // (n_heads, select_blocks())
    ListedPage* pages;           // (n_heads, select_blocks(), select_most_pages())
    std::byte* workspace;        // select_workspace_bytes()
    unsigned long long* unread;  // (n_heads): what each head left out is added, in pairs of a query and a key before it
};

/// The lists of every head and block of queries.
cudaError_t select_pages(const Card& card, const SelectArgs& args, cudaStream_t stream);

uint32_t select_blocks(uint32_t start, uint32_t n_queries, uint32_t chunk_size);
/// How long a list may be: a page is two entries where a border of two ranges cuts it.
constexpr uint32_t select_most_pages(uint32_t context) { return pages_for(context) + 2; }
size_t select_workspace_bytes(const Card& card, const Scheme& scheme, uint32_t context);

}  // namespace dca::cuda
