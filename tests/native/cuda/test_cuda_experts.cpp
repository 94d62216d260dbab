// The host's part of the CUDA backend's mixtures of experts, and the index arithmetic of their kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "check.h"
#include "cuda/experts/order.h"

namespace {

using namespace dca::cuda;

/// As the kernel does it: down the ranks, `used` of them.
std::vector<uint32_t> chosen(const std::vector<float>& logits, uint32_t used) {
    std::vector<uint32_t> experts;
    uint64_t last = ~uint64_t{0};
    for (uint32_t choice = 0; choice < used; ++choice) {
        uint64_t next = 0;
        for (uint32_t e = 0; e < logits.size(); ++e) {
            const uint64_t rank = expert_rank(logits[e], e);
            if (rank < last && rank > next) next = rank;
        }
        last = next;
        experts.push_back(expert_of_rank(last));
    }
    return experts;
}

}  // namespace

TEST(cuda_experts_rank_by_logit) {
    const std::vector<float> logits{-3.5f, 2.0f, -INFINITY, 0.0f, 7.25f, -1e-30f, 1e-30f, INFINITY};
    CHECK((chosen(logits, 8) == std::vector<uint32_t>{7, 4, 1, 6, 3, 5, 0, 2}));
    for (uint32_t e = 0; e < logits.size(); ++e) {
        CHECK(logit_of_rank(expert_rank(logits[e], e)) == logits[e]);
        CHECK(expert_of_rank(expert_rank(logits[e], e)) == e);
    }
}

TEST(cuda_experts_equal_logits_go_to_the_first) {
    CHECK((chosen({1.0f, 2.0f, 1.0f, 2.0f}, 3) == std::vector<uint32_t>{1, 3, 0}));
    CHECK((chosen({-0.0f, 0.0f, -0.0f}, 3) == std::vector<uint32_t>{0, 1, 2}));
    CHECK((chosen(std::vector<float>(4096, 0.0f), 2) == std::vector<uint32_t>{0, 1}));
}

TEST(cuda_experts_of_broken_logits_exist_and_differ) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const float sign : {1.0f, -1.0f}) {
        const auto experts =
            chosen({std::copysign(nan, sign), std::bit_cast<float>(0x7fffffffu), std::bit_cast<float>(0xffffffffu), 1.0f, nan}, 5);
        CHECK((std::set(experts.begin(), experts.end()) == std::set<uint32_t>{0, 1, 2, 3, 4}));
    }
    const auto all = chosen(std::vector<float>(3, std::bit_cast<float>(0x7fffffffu)), 3);
    CHECK((all == std::vector<uint32_t>{0, 1, 2}));
}

TEST(cuda_experts_warps_share_the_pairs) {
    for (const uint32_t n : {1u, 31u, 32u, 33u, 1000u, 1024u, 1025u, 65536u, 65537u}) {
        for (const uint32_t warps : {1u, 4u, 32u}) {
            uint32_t next = 0;
            for (uint32_t warp = 0; warp < warps; ++warp) {
                const PairRange range = pairs_of_warp(n, warp, warps);
                CHECK(range.first == next);
                CHECK(range.end == n || (range.end - range.first) % 32 == 0);
                next = range.end;
            }
            CHECK(next == n);
        }
    }
}

TEST(cuda_experts_padding_is_bounded) {
    std::set<uint32_t> shapes;
    for (uint32_t tokens = 1; tokens <= 8192; ++tokens) {
        const uint32_t padded = padded_tokens(tokens);
        shapes.insert(padded);
        CHECK(padded >= tokens);
        CHECK(padded - tokens <= most_padding(tokens));
        CHECK(most_padding(tokens) <= most_padding(tokens + 1));
        CHECK(tokens < 16 ? padded == 16 : padded <= tokens + std::max(15u, tokens / 8));
    }
    CHECK(shapes.size() <= 64);
}

TEST(cuda_experts_are_cut_into_runs_that_fit) {
    const std::vector<uint32_t> counts{0, 5, 3, 0, 8, 1, 0, 0, 8, 7, 1, 0};
    for (const uint32_t capacity : {8u, 9u, 16u, 100u}) {
        uint32_t place = 0;
        std::vector<int> seen(counts.size(), 0);
        for (const ExpertRun& run : expert_runs(counts, {0, static_cast<uint32_t>(counts.size())}, capacity)) {
            CHECK(run.first_place == place);
            CHECK(run.end_place > run.first_place && run.end_place - run.first_place <= capacity);
            for (uint32_t e = run.first_expert; e < run.end_expert; ++e) {
                ++seen[e];
                place += counts[e];
            }
            CHECK(run.end_place == place);
        }
        CHECK(place == std::accumulate(counts.begin(), counts.end(), 0u));
        for (size_t e = 0; e < counts.size(); ++e) CHECK(seen[e] == 1 || (seen[e] == 0 && counts[e] == 0));
    }
    CHECK(expert_runs(counts, {0, static_cast<uint32_t>(counts.size())}, 100).size() == 1);
    CHECK(expert_runs(std::vector<uint32_t>(4, 0), {0, 4}, 8).empty());
}

TEST(cuda_experts_of_a_rank_have_the_places_that_the_sort_gave_them) {
    const std::vector<uint32_t> counts = {3, 0, 5, 2, 4};
    const std::vector<ExpertRun> runs = expert_runs(counts, {2, 2}, 6);
    CHECK(runs.size() == 2);
    CHECK(runs[0].first_expert == 2 && runs[0].end_expert == 3 && runs[0].first_place == 3 && runs[0].end_place == 8);
    CHECK(runs[1].first_expert == 3 && runs[1].end_expert == 4 && runs[1].first_place == 8 && runs[1].end_place == 10);
    CHECK(OwnExperts({2, 2}).hold(3));
    CHECK(!OwnExperts({2, 2}).hold(1) && !OwnExperts({2, 2}).hold(4));
}

TEST(cuda_experts_lie_one_behind_the_other) {
    constexpr uint32_t rows = 3, cols = 96, depth = 4;  // three units a row, padded to four
    const auto check_format = [&](auto planes) {
        using P = decltype(planes);
        const PlaneBytes bytes = plane_bytes(P::kFormat, uint64_t{rows} * depth, cols);
        std::vector<uint32_t> low(bytes.low / 4), high(bytes.high / 4 + 1), scales(bytes.scales / 4);
        const Matrix whole{P::kFormat, rows * depth, cols, low.data(), high.data(), scales.data()};
        for (uint32_t row = 0; row < rows * depth; ++row) {
            for (uint32_t u = 0; u < cols / kUnit; ++u) {
                UnitValues values{};
                for (int i = 0; i < kUnit; ++i) values.q[i] = static_cast<int8_t>((row + u + i) % 4);
                values.scale[0] = values.scale[1] = static_cast<float>(1 + row);
                values.minimum[0] = values.minimum[1] = static_cast<float>(u);
                store_unit<P>(whole, row, u, pack_unit<P>(values));
            }
        }
        const Matrix first{P::kFormat, rows, cols, whole.low, whole.high, whole.scales};
        for (uint32_t row = 0; row < rows * depth; ++row) {
            for (uint32_t u = 0; u < cols / kUnit; ++u) {
                for (int c = 0; c < 4; ++c) {
                    float expected[8], found[8];
                    decode_eight<P>(whole, row, u, c, expected);
                    decode_eight<P>(expert_matrix(first, row / rows), row % rows, u, c, found);
                    CHECK(std::ranges::equal(expected, found));
                }
            }
        }
    };
    for (const WeightFormat format : {WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4M, WeightFormat::Q5, WeightFormat::Q5M,
                                      WeightFormat::Q6, WeightFormat::Q3, WeightFormat::Q2M}) {
        visit_planes(format, check_format);
    }
    std::vector<uint16_t> dense(rows * cols * depth);
    const Matrix first{WeightFormat::F16, rows, cols, dense.data(), nullptr, nullptr};
    CHECK(expert_matrix(first, 3).low == dense.data() + 3 * rows * cols);
    CHECK(expert_matrix(first, 3).high == nullptr && expert_matrix(first, 3).scales == nullptr);
}
