// How the GPU kernels cut queries and keys, against the definition token by token. Needs no GPU.
#include <cstdint>
#include <vector>

#include "check.h"
#include "cuda/positions.h"

using namespace dca::cuda;

namespace {

AttentionScheme scheme_of(uint32_t s, uint32_t w, uint32_t c) { return {s, w, c, 0, 0.0f, 0}; }

/// Every query once, no block over a chunk border, none larger than allowed.
void check_blocks(uint32_t start, uint32_t n, uint32_t s, uint32_t rows) {
    const QueryBlocks blocks(start, n, s, rows);
    uint32_t next = start;
    for (uint32_t b = 0; b < blocks.count; ++b) {
        const QueryBlock block = blocks.at(b);
        CHECK(block.first == next && block.rows >= 1 && block.rows <= rows);
        CHECK(block.first / s == block.chunk && (block.first + block.rows - 1) / s == block.chunk);
        next = block.first + block.rows;
    }
    CHECK(next == start + n);
}

/// The walk's tiles cover each key that a block's last query sees exactly once, in the range that
/// the chunks' gap asks for, and every tile but the first of its range is full.
template <uint32_t kKeys>
void check_walk(const AttentionScheme& scheme, const QueryBlock& block) {
    const uint32_t end = block.first + block.rows;
    std::vector<int> seen(end, 0);
    TileWalk<kKeys> walk(scheme, block);
    do {
        CHECK(walk.entered || walk.key + kKeys <= walk.range_end);
        for (uint32_t key = walk.key; key < walk.key + kKeys && key < walk.range_end; ++key) {
            const uint32_t gap = block.chunk - key / scheme.chunk_size;
            CHECK(static_cast<uint32_t>(walk.range()) == (gap < 2 ? gap : 2));
            ++seen[key];
        }
    } while (walk.next());
    const uint32_t first = scheme.intra_only ? block.chunk * scheme.chunk_size : 0;
    for (uint32_t key = 0; key < end; ++key) CHECK(seen[key] == (key >= first ? 1 : 0));
}

}  // namespace

TEST(cuda_query_blocks_cover_every_query_once) {
    for (const uint32_t s : {1u, 6u, 64u, 100u, 129u, 1u << 31})
        for (const uint32_t start : {0u, 1u, 5u, 99u, 128u, 700u})
            for (const uint32_t n : {1u, 5u, 6u, 7u, 128u, 200u, 257u, 1000u}) check_blocks(start, n, s, 128);
}

TEST(cuda_tiles_cover_every_key_once_in_its_range) {
    for (const uint32_t s : {1u, 6u, 64u, 100u, 129u, 1u << 31})
        for (const bool intra_only : {false, true}) {
            AttentionScheme scheme = scheme_of(s, s / 2, 2 * s);
            scheme.intra_only = intra_only;
            const QueryBlocks blocks(37, 500, s, 64);
            for (uint32_t b = 0; b < blocks.count; ++b) {
                check_walk<16>(scheme, blocks.at(b));
                check_walk<128>(scheme, blocks.at(b));
            }
        }
}

TEST(cuda_query_positions_are_the_papers) {
    const AttentionScheme scheme = scheme_of(6, 4, 10);  // figure 2
    const uint32_t successive[6] = {6, 7, 8, 9, 9, 9};
    for (uint32_t r = 0; r < 6; ++r) {
        CHECK(query_position(scheme, Range::Intra, r) == r);
        CHECK(query_position(scheme, Range::Successive, r) == successive[r]);
        CHECK(query_position(scheme, Range::Inter, r) == 9);
    }
}

TEST(cuda_work_order_visits_every_pair_once_longest_first_in_a_section) {
    const WorkOrder order{7, 10, 4};
    std::vector<int> seen(70, 0);
    uint32_t section = 0, block = 7;
    for (uint32_t n = 0; n < order.count(); ++n) {
        const WorkOrder::Item item = order.at(n);
        ++seen[item.block * 10 + item.head];
        CHECK(item.head / 4 >= section);
        if (item.head / 4 > section) section = item.head / 4, block = 7;
        CHECK(item.block <= block);
        block = item.block;
    }
    for (const int times : seen) CHECK(times == 1);
}
