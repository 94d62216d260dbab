// Stated budgets on the CPU: which lines are chosen, and which keys they come to for a block.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "check.h"
#include "cpu/executor/line_budgets.h"

using namespace dca;
using namespace dca::cpu;

namespace {

std::vector<uint32_t> distances_of(const std::vector<KeyRange>& runs) {
    std::vector<uint32_t> all;
    for (const KeyRange& run : runs) {
        for (uint32_t d = run.begin; d < run.end; ++d) all.push_back(d);
    }
    return all;
}

TEST(the_heaviest_columns_are_chosen_and_the_first_ones_before_them) {
    std::vector<float> weights(200, 0.0f);
    weights[150] = 3.0f;
    weights[40] = 2.0f;
    weights[60] = 2.0f;
    weights[199] = NAN;  // weighs nothing
    std::vector<uint32_t> order, columns;
    choose_columns(weights, 0, kSinkColumns + 2, order, columns);
    CHECK(columns.size() == kSinkColumns + 2);
    CHECK(columns[kSinkColumns - 1] == kSinkColumns - 1);
    CHECK(columns[kSinkColumns] == 40);  // of equals the earlier
    CHECK(columns.back() == 150);
    choose_columns(weights, 1000, 3, order, columns);  // keys that do not begin a sequence
    CHECK((columns == std::vector<uint32_t>{1040, 1060, 1150}));
}

TEST(a_budget_above_all_lines_takes_all_of_them) {
    const std::vector<float> weights(120, 1.0f);
    std::vector<uint32_t> order, columns;
    std::vector<KeyRange> diagonals;
    choose_columns(weights, 0, 1u << 30, order, columns);
    choose_diagonals(weights, 1u << 30, order, diagonals);
    CHECK(columns.size() == 120);
    CHECK(diagonals.size() == 1 && diagonals[0].begin == 0 && diagonals[0].end == 120);
}

TEST(near_diagonals_come_first_and_neighbours_are_one_run) {
    std::vector<float> weights(400, 0.0f);
    weights[300] = weights[301] = 1.0f;
    weights[350] = 2.0f;
    std::vector<uint32_t> order;
    std::vector<KeyRange> diagonals;
    choose_diagonals(weights, kLocalDiagonals + 3, order, diagonals);
    CHECK(diagonals.size() == 3);
    CHECK(diagonals[0].begin == 0 && diagonals[0].end == kLocalDiagonals);
    CHECK(diagonals[1].begin == 300 && diagonals[1].end == 302);
    CHECK(diagonals[2].begin == 350 && diagonals[2].end == 351);
    choose_diagonals(weights, 5, order, diagonals);
    CHECK((distances_of(diagonals) == std::vector<uint32_t>{0, 1, 2, 3, 4}));
}

TEST(the_keys_of_a_block_are_those_of_its_lines) {
    std::mt19937 random(5);
    const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    for (int trial = 0; trial < 300; ++trial) {
        const uint32_t begin = below(600), end = begin + 1 + below(32), first_key = below(begin + 1);
        std::set<uint32_t> columns, distances{0};
        for (uint32_t i = below(40); i > 0; --i) columns.insert(first_key + below(end + 40 - first_key));
        for (uint32_t i = below(40); i > 0; --i) distances.insert(below(end + 40));
        ChosenLines chosen{{columns.begin(), columns.end()}, {}};
        for (const uint32_t d : distances) {
            if (!chosen.diagonals.empty() && chosen.diagonals.back().end == d) {
                ++chosen.diagonals.back().end;
            } else {
                chosen.diagonals.push_back({d, d + 1});
            }
        }
        std::set<uint32_t> expected;
        for (const uint32_t column : columns) {
            if (column < end) expected.insert(column);
        }
        for (const uint32_t d : distances) {
            for (uint32_t query = begin; query < end; ++query) {
                if (query >= d && query - d >= first_key) expected.insert(query - d);
            }
        }
        BlockKeys read;
        keys_of_block(chosen, begin, end, first_key, read);
        std::vector<uint32_t> found = read.singles;
        for (const uint32_t single : read.singles) CHECK(single < begin);
        for (size_t i = 0; i < read.runs.size(); ++i) {
            CHECK(read.runs[i].begin < read.runs[i].end);
            if (i > 0) CHECK(read.runs[i - 1].end < read.runs[i].begin);
            for (uint32_t key = read.runs[i].begin; key < read.runs[i].end; ++key) found.push_back(key);
        }
        std::ranges::sort(found);
        CHECK(std::ranges::equal(found, expected));  // each once
    }
}

}  // namespace
