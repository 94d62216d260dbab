// Caches of codes, and what sparse prefill needs of keys, on every instruction set that this machine has.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu_kernel_cases.h"

using namespace dca::cpu;

TEST(hadamard_is_its_own_inverse_and_keeps_products) {
    for (const Kernels* kernels : tables()) {
        for (const int head_dim : {16, 64, 80, 96, 128}) {
            for (const int lanes : {1, kPanelLanes}) {
                const auto a = random_values(static_cast<size_t>(head_dim) * lanes, 31);
                const auto b = random_values(static_cast<size_t>(head_dim) * lanes, 32);
                auto turned_a = a, turned_b = b;
                kernels->hadamard(turned_a.data(), head_dim, lanes);
                kernels->hadamard(turned_b.data(), head_dim, lanes);
                bool same_product = true;
                for (int lane = 0; lane < lanes; ++lane) {
                    double before = 0.0, after = 0.0;
                    for (int d = 0; d < head_dim; ++d) {
                        before += double{a[d * lanes + lane]} * b[d * lanes + lane];
                        after += double{turned_a[d * lanes + lane]} * turned_b[d * lanes + lane];
                    }
                    same_product &= std::fabs(before - after) < 1e-4;
                }
                CHECK(same_product);
                CHECK(turned_a != a);
                kernels->hadamard(turned_a.data(), head_dim, lanes);
                bool back = true;
                for (size_t i = 0; i < a.size(); ++i) back &= std::fabs(turned_a[i] - a[i]) < 1e-5;
                CHECK(back);
            }
        }
    }
}

// What a cache of codes gives back: within half a step of each group's range, and half the last bit of its f16 numbers.
TEST(codes_are_within_half_a_step) {
    for (const Kernels* kernels : tables()) {
        for (const auto& [type, levels] : {std::pair{DCA_CACHE_Q8, 255}, std::pair{DCA_CACHE_Q4, 15}}) {
            for (const int head_dim : {32, 64, 96, 128}) {
                constexpr uint32_t keys = 40;
                auto k = random_values(size_t{keys} * head_dim, 41);
                for (float& value : k) value += 3.0f;  // groups far from 0
                const CpuKvCache cache = filled_cache(*kernels, type, head_dim, k, k);
                const auto t = static_cast<size_t>(cache.type());
                bool right = true;
                for (uint32_t j = 0; j < keys; ++j) {
                    std::vector<float> mean(head_dim);
                    kernels->mean_keys[t](cache.view(0, 0), {j, j + 1}, head_dim, mean.data());
                    // One key alone gives its value.
                    std::vector<float> q(head_dim), out(head_dim);
                    float maximum = -INFINITY, sum = 0.0f;
                    kernels->attend_row[t]({q.data(), out.data(), &maximum, &sum, 1, head_dim, cache.view(0, 0), {j, j + 1}});
                    for (int d = 0; d < head_dim; ++d) {
                        const int size = code_group(cache.type(), head_dim), group = d / size * size;
                        const float* x = k.data() + size_t{j} * head_dim;
                        const auto [low, high] = std::minmax_element(x + group, x + group + size);
                        const float bound = 0.51f * (*high - *low) / static_cast<float>(levels) + 1e-3f * std::fabs(*high);
                        right &= std::fabs(mean[d] - x[d]) <= bound;
                        right &= std::fabs(out[d] / sum - x[d]) <= bound;
                    }
                }
                CHECK(right);
            }
        }
    }
}

// What all keys of a page have in common costs no bits once it is full: 8 bits of a wide range keep what 4 bits of it would not.
TEST(settled_keys_lose_by_what_differs_between_them) {
    for (const Kernels* kernels : tables()) {
        for (const int head_dim : {32, 64, 128}) {
            constexpr uint32_t keys = kKeyTile;
            auto k = random_values(size_t{keys} * head_dim, 71);
            const auto common = random_values(head_dim, 72);
            for (size_t i = 0; i < k.size(); ++i) k[i] = 0.3f * k[i] + 3.0f * common[i % head_dim];
            CpuKvCache cache(1, 1, static_cast<uint32_t>(head_dim), 2 * keys, DCA_CACHE_Q4, false, keys);
            const std::vector<uint32_t> pages{1, 0};
            const std::vector<int32_t> tokens(keys);
            const dca::Slice slice{.pages = pages, .start = keys, .tokens = tokens, .wanted = 0};
            cache.begin({{&slice, 1}});
            const auto t = static_cast<size_t>(cache.type());
            for (uint32_t j = 0; j < keys; ++j) {
                kernels->store_keys[t](k.data() + size_t{j} * head_dim, head_dim, 1, 1, cache.keys(0, 0), cache.key_affine(0, 0), j,
                                       cache.fine_keys(0, 0, 0), cache.view(0, 0).centres);
            }
            const auto lost = [&] {
                double sum = 0.0;
                std::vector<float> key(head_dim);
                for (uint32_t j = 0; j < keys; ++j) {
                    kernels->mean_keys[t](cache.view(0, 0), {j, j + 1}, head_dim, key.data());
                    for (int d = 0; d < head_dim; ++d) sum += std::pow(key[d] - k[size_t{j} * head_dim + d], 2);
                }
                return std::sqrt(sum / (size_t{keys} * head_dim));
            };
            const double before = lost();
            CHECK(cache.filled().size() == 1 && cache.filled()[0].page == 0 && !cache.filled()[0].first);
            kernels->settle_keys(cache.view_to_settle(0, 0, 0), 0, head_dim, false);
            CHECK(lost() < before / 4);
            CHECK(lost() < 0.3 / 6);  // a sixth of what differs
        }
    }
}

TEST(mean_keys_leave_out_what_lies_outside) {
    constexpr int head_dim = 64;
    auto k = random_values(size_t{128} * head_dim, 51);
    for (int d = 0; d < head_dim; ++d) k[44 * head_dim + d] = k[100 * head_dim + d] = NAN;
    for (const Kernels* kernels : tables()) {
        const CpuKvCache cache = filled_cache(*kernels, DCA_CACHE_F32, head_dim, k, k);
        std::vector<float> mean(head_dim);
        kernels->mean_keys[static_cast<size_t>(cache.type())](cache.view(0, 0), {45, 100}, head_dim, mean.data());
        bool right = true;
        for (int d = 0; d < head_dim; ++d) {
            double sum = 0.0;
            for (int j = 45; j < 100; ++j) sum += k[j * head_dim + d];
            right &= std::fabs(mean[d] - sum / 55) < 1e-5;
        }
        CHECK(right);
    }
}

TEST(a_pages_weight_is_summed_over_the_lanes_that_count) {
    constexpr int rows = 37, head_dim = 32;
    for (const Kernels* kernels : tables()) {
        const auto q = random_values(size_t{head_dim} * kPanelLanes, 61);
        const auto means = random_values(static_cast<size_t>(2) * kPanelLanes * head_dim, 62);
        std::vector<float> scores(static_cast<size_t>(2) * kPanelLanes * kPanelLanes), weights(rows);
        kernels->score_means(means.data(), rows, q.data(), head_dim, scores.data());
        kernels->weigh_pages(scores.data(), rows, 3, 20, weights.data());
        const auto score = [&](int row, int lane) {
            double sum = 0.0;
            for (int d = 0; d < head_dim; ++d) {
                sum += double{means[(row / kPanelLanes * head_dim + d) * kPanelLanes + row % kPanelLanes]} * q[d * kPanelLanes + lane];
            }
            return sum;
        };
        bool right = true;
        std::vector<double> expected(rows);
        for (int lane = 3; lane < 20; ++lane) {
            double top = -INFINITY;
            for (int row = 0; row < rows; ++row) top = std::max(top, score(row, lane));
            for (int row = 0; row < rows; ++row) expected[row] += std::exp2(score(row, lane) - top);
        }
        for (int row = 0; row < rows; ++row) right &= std::fabs(weights[row] - expected[row]) < 1e-4;
        CHECK(right);
    }
}

TEST(heads_that_pass_keys_over_are_left_as_they_are) {
    constexpr int group = 3, head_dim = 64;
    constexpr uint32_t keys = 256;
    const auto k = random_values(size_t{keys} * head_dim, 71);
    for (const dca_cache_type type : {DCA_CACHE_F32, DCA_CACHE_F16, DCA_CACHE_Q4}) {
        for (const Kernels* kernels : tables()) {
            const CpuKvCache cache = filled_cache(*kernels, type, head_dim, k, k);
            const auto q = random_values(static_cast<size_t>(group) * head_dim * kPanelLanes, 72);
            std::vector<float> scratch(attend_scratch_floats(group, head_dim));
            const auto attended = [&](const uint8_t* heads) {
                std::vector<float> out(q.size()), maximum(static_cast<size_t>(group) * kPanelLanes, -INFINITY), sum(maximum.size());
                AttendPanelArgs args{q.data(), out.data(),       maximum.data(), sum.data(), group,
                                     head_dim, cache.view(0, 0), {0, 128},       500,        scratch.data()};
                args.heads = heads;
                kernels->attend_panel[static_cast<size_t>(cache.type())](args);
                return out;
            };
            const uint8_t heads[group] = {1, 0, 1};
            const auto some = attended(heads), all = attended(nullptr);
            const size_t head = size_t{head_dim} * kPanelLanes;
            CHECK(std::equal(some.begin(), some.begin() + head, all.begin()));
            CHECK(std::all_of(some.begin() + head, some.begin() + 2 * head, [](float value) { return value == 0.0f; }));
            CHECK(std::equal(some.begin() + 2 * head, some.end(), all.begin() + 2 * head));
        }
    }
}
