// Attention on an NVIDIA GPU: Dual Chunk Attention and, as one endless chunk, plain causal
// attention. Launch functions over raw device memory; nothing here knows models or sessions.
//
// Queries arrive un-rotated: the kernels rotate them once per key range (core/positions/scheme.h).
// Keys lie in the cache rotated at P_k = index mod s, so the cache never changes afterwards.
//
// A cache is a pool of pages of kPageTokens tokens. Which pages hold a sequence, in order, says a page table
// in device memory: the token at index i is in its entry i / kPageTokens. Slots of a page that hold no token
// yet, and pages that no table names, may hold anything, NaN too: they never reach a result.
//
// All functions launch on `stream`, return without waiting and allocate nothing. They return
// cudaErrorInvalidValue when an argument contradicts the comments below.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/backend/cache_type.h"
#include "core/engine/page_pool.h"
#include "core/positions/scheme.h"
#include "cuda/attention/page_lists.h"
#include "cuda/attention/prefill/split_walk.h"
#include "cuda/device/card.h"
#include "cuda/device/dtype.h"

namespace dca::cuda {

struct AttentionShape {
    int32_t n_heads;  // a multiple of n_kv_heads
    int32_t n_kv_heads;
    int32_t head_dim;          // even, at most 256; 64, 80, 96, 128 and 256 have fast kernels
    int32_t rotary_dim;        // even, at most head_dim; the fast kernels want a multiple of 8
    int32_t rope_interleaved;  // 1: pairs (2j, 2j + 1); 0: pairs (j, j + rotary_dim / 2)
    float scale;               // of the logits, usually 1 / sqrt(head_dim)
};

/// What the attention of some layers has beside that of most. Kernels that know of it are compiled apart from those that do
/// not (variants.h), so that it costs these nothing.
struct AttentionTraits {
    uint32_t window = 0;           // tokens that a query sees, its own included; 0: all before it
    float cap = 0.0f;              // scaled logits become cap tanh(logit / cap); 0: they stay
    const float* sinks = nullptr;  // (n_heads) in device memory: logits that take their share of each softmax; null: none
};

/// One layer's keys and values: F16, BF16, Q8 or Q4. Pointers are 16-byte aligned.
///
/// Q8 and Q4 hold keys, after their rotation, and values turned by Hadamard matrices (hadamard.cuh). Products over them are
/// computed in f16.
///
/// Q8: unsigned bytes with one f16 scale for the key and one for the value of each head and token; a
/// value is (byte - 128) * scale. Scales have at most seven significant bits and end at 56.5, so values
/// end at 7,175.
///
/// Q4: a byte holds features d (low) and d + head_dim / 2 (high) in the place of d. With each half of the key and of the value of
/// each head and token go a scale and an offset in f16: a value is code * scale + offset. Some pages have a slot of as many fine codes: where
/// they are read too, a value is (code + (fine - 8) / 16) * scale + offset (core/engine/fresh_pages.h). To keys a centre is added,
/// the same for a page's tokens: zeros until the page is settled.
struct LayerCache {
    void* keys;          // (pages, n_kv_heads, kPageTokens, head_dim), rotated; Q4: rows of head_dim / 2 bytes
    void* values;        // likewise
    void* key_scales;    // f16 (pages, n_kv_heads, kPageTokens), in Q4 (scale, offset) for each half; Q8 and Q4 only
    void* value_scales;  // likewise
    uint32_t pages;
    CacheType type;
    // Q4 only.
    const uint32_t* fine_slots = nullptr;  // (pages) in device memory: the page's slot or kNoFineSlot
    void* fine_keys = nullptr;             // of slot 0, (n_kv_heads, kPageTokens, head_dim / 2)
    void* fine_values = nullptr;           // likewise
    size_t fine_stride = 0;                // bytes from a slot to the next
    void* key_centres = nullptr;           // f16, of page 0, (n_kv_heads, head_dim)
    size_t centre_stride = 0;              // values from a page to the next
};
constexpr uint32_t kNoFineSlot = ~uint32_t{0};

/// cos and sin of every position the scheme uses, times the model's attention factor if any.
struct RotaryTable {
    const float2* cos_sin;  // (n_positions, rotary_dim / 2), 16-byte aligned
    uint32_t n_positions;
};

/// Which prefill kernel runs. Auto takes the fastest that the card and the shape allow.
enum class PrefillKernel : int32_t { Auto = 0, Simple = 1, Sm80 = 2, Sm90 = 3 };

struct PrefillArgs {
    AttentionShape shape;
    Scheme scheme;
    LayerCache cache;
    RotaryTable rotary;
    const uint32_t* page_table;  // device memory: the sequence's pages, which hold indices [0, start + n_queries)
    const void* q;               // (n_queries, n_heads, head_dim), 16-byte aligned
    void* out;                   // the same shape
    int64_t q_stride;            // elements between tokens, a multiple of 8
    int64_t out_stride;          // likewise
    Dtype dtype;                 // of q and out
    AttentionTraits traits;
    uint32_t start;          // index of the first query
    uint32_t n_queries;      // >= 1
    void* workspace;         // 16-byte aligned
    size_t workspace_bytes;  // at least prefill_workspace_bytes()
    PrefillKernel kernel;
    PageLists lists;          // of sparse prefill, for these very queries; Simple takes none
    uint32_t fresh_page = 0;  // Q4: the sequence's first page whose fine codes are read
    uint32_t n_behind = 0;    // tokens behind the queries whose keys and values are there, too: part of a page that nobody sees
    KeyPiece piece = {};      // not all of it: a call of Sm90's own, whose cache holds these pages alone (prefill/dequantized.h)
};

/// Causal attention of n_queries tokens of one sequence over a cache that already holds their keys.
cudaError_t attention_prefill(const Card& card, const PrefillArgs& args, cudaStream_t stream);

/// Device bytes that `workspace` must have, whatever the call.
size_t prefill_workspace_bytes();

/// Device bytes with which prefill over a Q8 cache of `context` tokens can use the Hopper kernel, which
/// wants 16-bit tiles: the cache of `kv_heads` key heads is dequantized at a time (more is faster where
/// calls have few queries). With less, or few queries, the bytes are dequantized tile by tile in the sm_80 kernel.
/// A Q4 cache is always dequantized: with less room the simple kernel reads it.
size_t prefill_workspace_bytes(const AttentionShape& shape, uint32_t context, int32_t kv_heads);

/// The same where one key head takes more than `dequantized` bytes: for a piece of so many bytes of its keys and values at a time,
/// in calls of up to n_queries. 0: this card, shape or scheme wants a whole key head.
size_t prefill_pieces_bytes(const Card& card, const AttentionShape& shape, const Scheme& scheme, uint32_t context, uint32_t n_queries,
                            size_t dequantized);

/// One sequence's newest token in a step of many.
struct DecodeRow {
    uint32_t length;      // tokens in the cache, the query's own included; 0: a row of padding, nothing is read or written
    uint32_t first_page;  // where its page table starts in page_tables
    uint32_t shared;      // how many of its first tokens its group reads; 0: it is in none
    uint32_t fresh_page;  // Q4: its sequence's first page whose fine codes are read; behind the shared ones
};

constexpr uint32_t kMaxDecodeRows = 1024;
constexpr uint32_t kMostGuessedRows = 8;  // of one sequence in a step: a token and the guesses at those that follow
constexpr uint32_t kMostGroupRows = 16;

/// Rows whose page tables begin with the same pages and whose newest tokens are in one chunk, so that their key ranges have the
/// same borders there: what these pages hold is read once for all of them.
struct DecodeGroup {
    uint32_t rows;    // 0: no group; at most decode_group_rows()
    uint32_t shared;  // tokens, a multiple of kPageTokens, fewer than any of the rows has
    uint16_t row[kMostGroupRows];
};

/// How many rows a group may have; fewer than 2: there are no groups for this shape and cache.
uint32_t decode_group_rows(const Card& card, const AttentionShape& shape, CacheType cache);

struct DecodeArgs {
    AttentionShape shape;
    Scheme scheme;
    LayerCache cache;
    RotaryTable rotary;
    const void* q;       // (n_rows, n_heads, head_dim), 16-byte aligned
    void* out;           // the same shape
    int64_t q_stride;    // elements between rows, a multiple of 8
    int64_t out_stride;  // likewise
    Dtype dtype;         // of q and out
    AttentionTraits traits;
    uint32_t n_rows;              // 1 ... workspace_rows
    const DecodeRow* rows;        // (n_rows) in device memory
    const uint32_t* page_tables;  // device memory
    const DecodeGroup* groups;    // (n_groups) in device memory; a row is in one at most
    uint32_t n_groups;            // at most n_rows / 2; 0: `shared` of rows is not read. With traits, an intra_only scheme or a
                                  // border that moves 0
    void* workspace;              // decode_workspace_bytes(workspace_rows), zeroed once; every call leaves its counters zero
    uint32_t workspace_rows;      // at most kMaxDecodeRows
    bool after_store = false;     // of one row: the kernel before is store_keys_values() of its token alone, while which older
                                  // pages are read
};

/// Attention of the newest token of each of n_rows sequences, or of up to kMostGuessedRows newest ones of some. What the kernel
/// that comes before in the stream must not write: pages that hold none of these tokens, and where n_rows is above 1 the rows,
/// groups and page tables. The rotary table must reach as far as the lengths will. The launch depends on n_rows and n_groups
/// alone, so a CUDA graph that holds it serves every step of as many. A row's result depends on its own sequence, on how much of
/// it is shared, on n_rows and on whether n_groups is 0, to the last bit, not on the other rows.
cudaError_t attention_decode(const Card& card, const DecodeArgs& args, cudaStream_t stream);

/// Device bytes for attention_decode of up to `rows` rows.
size_t decode_workspace_bytes(const Card& card, const AttentionShape& shape, uint32_t rows);

struct StoreArgs {
    AttentionShape shape;
    Scheme scheme;
    LayerCache cache;
    RotaryTable rotary;
    const void* k;     // (n_rows, n_kv_heads, head_dim), un-rotated
    const void* v;     // (n_rows, n_kv_heads, head_dim)
    int64_t k_stride;  // elements between rows
    int64_t v_stride;
    Dtype dtype;              // of k and v
    uint32_t n_rows;          // tokens of one or of many sequences
    const uint32_t* indices;  // (n_rows) in device memory: of each row's token in its own sequence; gives P_k
    const uint32_t* places;   // (n_rows) in device memory: page * kPageTokens + offset in the page; others than those
                              // of the cache are skipped
};

/// Some full pages of a Q4 cache.
struct FilledPages {
    static constexpr uint32_t kMost = 64;
    uint32_t count;
    uint32_t page[kMost];
    bool first[kMost];  // of its sequence
};

/// Codes the keys of these pages anew, less their mean, or of a first page less its first key: that becomes their centre.
cudaError_t settle_keys(const AttentionShape& shape, const LayerCache& cache, const FilledPages& pages, cudaStream_t stream);

/// Rotates keys at P_k and writes them and the values into the cache, rounding to its dtype. The rotary table must
/// reach as far as the indices will. Where n_rows is above 1 the kernel that comes before in the stream must not write the indices
/// and places.
cudaError_t store_keys_values(const Card& card, const StoreArgs& args, cudaStream_t stream);

}  // namespace dca::cuda
