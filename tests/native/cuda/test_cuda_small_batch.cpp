// The indices of the CUDA products with few rows, which compile for the host as well: who takes which steps, and where copies
// and operands lie in shared memory.
#include <algorithm>
#include <set>
#include <vector>

#include "check.h"
#include "cuda/linear/small_batch/layout.h"

namespace {

using namespace dca::cuda;
using namespace dca::cuda::few;

constexpr uint32_t kBanks = 8;  // of 16 bytes: what eight lanes read or write at once

struct Case {
    uint32_t tiles, steps, multiprocessors;
};
constexpr Case kCases[] = {{1, 1, 132},    {1, 16, 132},   {16, 16, 132}, {132, 7, 132},
                           {112, 64, 132}, {501, 16, 132}, {3, 56, 7},    {264, 3, 132}};

Split split(const Case& c) { return {c.steps, c.tiles * c.steps, std::min(c.multiprocessors, c.tiles * c.steps)}; }

/// Whether eight addresses, in units of 16 bytes, lie in eight banks.
bool conflict_free(const std::vector<uint32_t>& slots) {
    std::set<uint32_t> banks;
    for (const uint32_t slot : slots) banks.insert(slot % kBanks);
    return slots.size() == kBanks && banks.size() == kBanks;
}

template <uint32_t kXChunks>
bool x_reads_conflict_free() {
    bool free = true;
    for (uint32_t n = 0; n < 16; n += 2) {
        for (uint32_t i = 0; i < kXChunks / 4; ++i) {
            std::vector<uint32_t> slots;
            for (uint32_t lane = 0; lane < 8; ++lane) slots.push_back(x_slot<kXChunks>(n + lane / 4, lane % 4 * (kXChunks / 4) + i));
            free &= conflict_free(slots);
        }
    }
    return free;
}

template <uint32_t kXChunks>
bool x_copies_conflict_free() {
    bool free = true;
    for (uint32_t first = 0; first < 16 * kXChunks; first += 8) {
        std::vector<uint32_t> slots;
        for (uint32_t i = first; i < first + 8; ++i) slots.push_back(x_slot<kXChunks>(i / kXChunks, i % kXChunks));
        free &= conflict_free(slots);
    }
    return free;
}

template <uint32_t kXChunks>
size_t x_places() {
    std::set<uint32_t> slots;
    for (uint32_t i = 0; i < 16 * kXChunks; ++i) slots.insert(x_slot<kXChunks>(i / kXChunks, i % kXChunks));
    return *slots.rbegin() < 16 * kXChunks ? slots.size() : 0;
}

TEST(small_batch_runs_follow_one_another_and_differ_by_one_step_at_most) {
    for (const Case& c : kCases) {
        const Split s = split(c);
        CHECK(s.begin(0) == 0u);
        CHECK(s.begin(s.blocks) == s.total);
        for (uint32_t block = 0; block < s.blocks; ++block) {
            const uint32_t length = s.begin(block + 1) - s.begin(block);
            CHECK(length >= s.total / s.blocks);
            CHECK(length <= (s.total + s.blocks - 1) / s.blocks);
        }
    }
}

TEST(small_batch_block_of_a_step_is_the_one_whose_run_holds_it) {
    for (const Case& c : kCases) {
        const Split s = split(c);
        for (uint32_t block = 0; block < s.blocks; ++block) {
            for (uint32_t step = s.begin(block); step < s.begin(block + 1); ++step) CHECK(s.block_of(step) == block);
        }
    }
}

TEST(small_batch_parts_of_shared_tiles_have_places_of_their_own) {
    for (const Case& c : kCases) {
        const Split s = split(c);
        std::set<uint32_t> slots;
        size_t parts = 0;
        for (uint32_t tile = 0; tile < c.tiles; ++tile) {
            const uint32_t first = s.block_of(tile * c.steps), last = s.block_of((tile + 1) * c.steps - 1);
            if (first == last) continue;
            for (uint32_t block = first; block <= last; ++block, ++parts) slots.insert(s.slot(block, tile));
        }
        CHECK(slots.size() == parts);
        CHECK(slots.empty() || *slots.rbegin() < 2 * s.blocks);
    }
}

TEST(small_batch_chunks_of_weights_have_places_of_their_own) {
    std::set<uint32_t> slots;
    for (uint32_t eight = 0; eight < 4; ++eight) {
        for (uint32_t q = 0; q < 2; ++q) {
            for (uint32_t lane = 0; lane < 32; ++lane) slots.insert(low_slot(eight, q, lane));
        }
    }
    CHECK(slots.size() == 4 * 2 * 32u);
    CHECK(*slots.rbegin() == 4 * 2 * 32u - 1);
}

TEST(small_batch_copies_of_weights_meet_no_bank_twice) {
    for (uint32_t g = 0; g < 8; ++g) {
        std::vector<uint32_t> slots;
        for (uint32_t chunk = 0; chunk < 8; ++chunk) slots.push_back(low_slot(1, chunk % 2, 4 * g + chunk / 2));
        CHECK(conflict_free(slots));
    }
}

TEST(small_batch_reads_of_weights_meet_no_bank_twice) {
    for (uint32_t q = 0; q < 2; ++q) {
        for (uint32_t first = 0; first < 32; first += 8) {
            std::vector<uint32_t> slots;
            for (uint32_t lane = first; lane < first + 8; ++lane) slots.push_back(low_slot(0, q, lane));
            CHECK(conflict_free(slots));
        }
    }
}

TEST(small_batch_chunks_of_x_have_places_of_their_own) {
    CHECK(x_places<8>() == 16 * 8u);
    CHECK(x_places<16>() == 16 * 16u);
    CHECK(x_places<32>() == 16 * 32u);
}

TEST(small_batch_copies_of_x_meet_no_bank_twice) {
    CHECK(x_copies_conflict_free<8>());
    CHECK(x_copies_conflict_free<16>());
    CHECK(x_copies_conflict_free<32>());
}

TEST(small_batch_reads_of_x_meet_no_bank_twice) {
    CHECK(x_reads_conflict_free<8>());
    CHECK(x_reads_conflict_free<16>());
    CHECK(x_reads_conflict_free<32>());
}

/// The 128-byte swizzle of shared memory: address bits 7 ... 9 are exchanged with 4 ... 6.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

/// Whether wgmma meets, at each of its columns, the column of x that lane t has a weight of: x as its copy leaves it in shared
/// memory, the weights as small_batch/sm90.cuh makes operands of a lane's two chunks (`eights` eights of columns each).
bool wgmma_columns_agree(uint32_t n_rows, uint32_t eights) {
    const uint32_t cols = 64 * eights;
    std::vector<uint32_t> columns(n_rows * cols, ~0u);  // by place in shared memory, two bytes each
    for (uint32_t n = 0; n < n_rows; ++n) {
        for (uint32_t i = 0; i < 2 * eights; ++i) {
            for (uint32_t piece = 0; piece < 4; ++piece) {
                for (uint32_t v = 0; v < 8; ++v) {
                    const uint32_t column = (v / 2 * 2 * eights + i) * 8 + 2 * piece + v % 2;
                    columns[wgmma_x_offset(n_rows, n, i, piece) / 2 + v] = n * cols + column;
                }
            }
        }
    }
    bool agree = true;
    for (uint32_t deep = 0; deep < 4 * eights; ++deep) {
        for (uint32_t n = 0; n < n_rows; ++n) {
            for (uint32_t k = 0; k < 16; ++k) {
                const uint32_t at = swizzled((deep / 4 * n_rows + n) * 128 + deep % 4 * 32 + 2 * k);
                const uint32_t t = k % 8 / 2, i = deep / 2, of_eight = 4 * (deep % 2) + k / 8 * 2 + k % 2;
                agree &= columns[at / 2] == n * cols + (t * 2 * eights + i) * 8 + of_eight;
            }
        }
    }
    return agree;
}

TEST(small_batch_weights_and_x_meet_in_wgmma) {
    for (const uint32_t n_rows : {16u, 32u, 64u}) {
        for (const uint32_t eights : {1u, 2u, 4u}) CHECK(wgmma_columns_agree(n_rows, eights));
    }
}

TEST(small_batch_low_planes_are_read_where_the_copy_engine_puts_them) {
    for (uint32_t row = 0; row < kTileRows; ++row) {
        for (uint32_t c = 0; c < 8; ++c) CHECK(wgmma_low_offset(row, c) == swizzled(row * kStepBytes + 16 * c));
    }
}

TEST(small_batch_reads_of_swizzled_weights_meet_no_bank_twice) {
    for (uint32_t q = 0; q < 2; ++q) {
        for (uint32_t first = 0; first < 32; first += 8) {
            std::vector<uint32_t> slots;
            for (uint32_t lane = first; lane < first + 8; ++lane) slots.push_back(wgmma_low_offset(lane / 4, 2 * (lane % 4) + q) / 16);
            CHECK(conflict_free(slots));
        }
    }
}

TEST(small_batch_boxes_of_x_are_read_where_the_copy_engine_puts_them) {
    for (const uint32_t n_rows : {16u, 32u}) {
        for (uint32_t t = 0; t < 4; ++t) {
            for (uint32_t n = 0; n < n_rows; ++n) {
                for (uint32_t i = 0; i < 8; ++i)
                    CHECK(mma_x_offset(n_rows, t, n, i) == swizzled(t * x_boxes_apart(n_rows) + n * 128 + 16 * i));
            }
        }
    }
}

TEST(small_batch_reads_of_boxes_of_x_meet_no_bank_twice) {
    for (uint32_t i = 0; i < 8; ++i) {
        for (uint32_t first = 0; first < 32; first += 8) {
            std::vector<uint32_t> slots;
            for (uint32_t lane = first; lane < first + 8; ++lane) slots.push_back(mma_x_offset(32, lane % 4, lane / 4, i) / 16);
            CHECK(conflict_free(slots));
        }
    }
}

TEST(small_batch_boxes_of_x_do_not_overlap) {
    for (const uint32_t n_rows : {16u, 32u}) CHECK(x_boxes_apart(n_rows) >= x_box_bytes(n_rows) && x_boxes_apart(n_rows) % 128 == 0);
}

TEST(small_batch_copies_of_x_for_wgmma_meet_no_bank_twice) {
    for (uint32_t first = 0; first < 16 * 8; first += 8) {
        for (uint32_t piece = 0; piece < 4; ++piece) {
            std::vector<uint32_t> slots;
            for (uint32_t item = first; item < first + 8; ++item)
                slots.push_back(wgmma_x_offset(16, item / 2 % 16, item / 2 / 16 * 2 + item % 2, piece) / 16);
            CHECK(conflict_free(slots));
        }
    }
}

}  // namespace
