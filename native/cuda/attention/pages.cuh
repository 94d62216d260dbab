// Where a sequence's tokens lie in a cache of pages (attention.h). Rows count all tokens of all heads and pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/engine/page_pool.h"

namespace dca::cuda {

/// One key head's rows of one sequence.
struct HeadRows {
    const uint32_t* page_table;  // null: its pages are 0, 1, 2, ...
    uint32_t n_kv_heads, head;

    __device__ __forceinline__ uint32_t page_of(uint32_t i) const {
        const uint32_t page = i / kPageTokens;
        return page_table ? __ldg(page_table + page) : page;
    }
    /// The row of the token at index i; those up to the end of its page follow.
    __device__ __forceinline__ size_t at(uint32_t i) const {
        return (size_t{page_of(i)} * n_kv_heads + head) * kPageTokens + i % kPageTokens;
    }
};

}  // namespace dca::cuda
