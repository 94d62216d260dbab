// The cut of a prompt's queries for sparse prefill on a card.
#include <algorithm>
#include <vector>

#include "check.h"
#include "cuda/sparse/page_blocks.h"

namespace {

using dca::QueryBlock;
using dca::cuda::PageBlocks;

TEST(blocks_are_cut_where_a_page_or_a_chunk_begins) {
    for (const uint32_t chunk : {128u, 129u, 200u, 256u, 300u, 1000u, 1u << 31}) {
        for (const uint32_t start : {0u, 1u, 127u, 128u, 599u, 600u, 5000u}) {
            for (const uint32_t count : {1u, 2u, 128u, 129u, 700u, 3001u}) {
                const PageBlocks blocks(start, count, chunk);
                uint32_t at = start, number = 0;
                for (; at < start + count; ++number) {
                    uint32_t end = at + 1;
                    while (end < start + count && end % 128 != 0 && end % chunk != 0) ++end;
                    const QueryBlock block = blocks.at(number);
                    CHECK(block.first == at);
                    CHECK(block.rows == end - at);
                    CHECK(block.chunk == at / chunk);
                    at = end;
                }
                CHECK(blocks.count == number);
            }
        }
    }
}

TEST(blocks_far_into_a_sequence) {
    constexpr uint32_t kStart = 2'000'000'001, kChunk = 24'577;
    const PageBlocks blocks(kStart, 100'000, kChunk);
    uint32_t rows = 0;
    for (uint32_t number = 0; number < blocks.count; ++number) rows += blocks.at(number).rows;
    CHECK(rows == 100'000);
    CHECK(blocks.at(blocks.count - 1).first + blocks.at(blocks.count - 1).rows == kStart + 100'000);
}

}  // namespace
