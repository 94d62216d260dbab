// Every instruction set that this machine has against loops in double precision.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "check.h"
#include "core/blocks/formats.h"
#include "cpu/thread_pool.h"

#include "cpu_kernel_cases.h"

using namespace dca::cpu;
using dca::KeyRange;

TEST(gemm_multiplies_panels) {
    for (const Kernels* kernels : tables()) {
        for (const int rows : {1, 5, 12, 48}) {
            const int cols = 37;
            const auto a = random_values(size_t{kGemmRows} * kGemmStride, 1);
            const auto b = random_values(static_cast<size_t>(2) * cols * kPanelLanes, 2);
            std::vector<float> c(static_cast<size_t>(2) * rows * kPanelLanes, 1.0f);
            kernels->gemm({a.data(), rows, cols, b.data(), static_cast<size_t>(cols) * kPanelLanes, c.data(),
                           static_cast<size_t>(rows) * kPanelLanes, 2, true});
            bool right = true;
            for (int p = 0; p < 2; ++p) {
                for (int r = 0; r < rows; ++r) {
                    for (int lane = 0; lane < kPanelLanes; ++lane) {
                        double sum = 1.0;
                        for (int k = 0; k < cols; ++k) sum += double{a[r * kGemmStride + k]} * b[(p * cols + k) * kPanelLanes + lane];
                        right &= close(c[(p * rows + r) * kPanelLanes + lane], sum, 1e-5);
                    }
                }
            }
            CHECK(right);
        }
    }
}

TEST(gemm_leaves_out_lanes_without_a_token) {
    for (const Kernels* kernels : tables()) {
        for (const int lanes : {1, 9, 16, 17}) {
            const int rows = 29, cols = 37;
            const auto a = random_values(size_t{kGemmRows} * kGemmStride, 1);
            const auto b = random_values(static_cast<size_t>(2) * cols * kPanelLanes, 2);
            std::vector<float> all(static_cast<size_t>(2) * rows * kPanelLanes), some = all;
            GemmArgs args{a.data(),
                          rows,
                          cols,
                          b.data(),
                          static_cast<size_t>(cols) * kPanelLanes,
                          all.data(),
                          static_cast<size_t>(rows) * kPanelLanes,
                          2,
                          false};
            kernels->gemm(args);
            args.c = some.data();
            args.last_lanes = lanes;
            kernels->gemm(args);
            bool same = true;
            for (size_t i = 0; i < all.size(); ++i) {
                const bool token = i / kPanelLanes < static_cast<size_t>(rows) || i % kPanelLanes < static_cast<size_t>(lanes);
                same &= !token || some[i] == all[i];
            }
            CHECK(same);
        }
    }
}

TEST(tokens_together_have_the_bits_they_have_alone) {
    using dca::BlockType;
    for (const auto type : {BlockType::F32, BlockType::F16, BlockType::BF16, BlockType::Q8_0}) {
        const dca::BlockInfo& info = dca::block_info(type);
        const int rows = 7, tokens = 7, cols = info.block_size == 1 ? 171 : 160;
        const auto values = random_values(static_cast<size_t>(rows) * cols, 3);
        const auto x = random_values(static_cast<size_t>(tokens) * cols, 4);
        const int64_t row_bytes = int64_t{cols} / info.block_size * info.block_bytes;
        std::vector<std::byte> blocks(static_cast<size_t>(rows * row_bytes));
        dca::encode_blocks(type, values.data(), int64_t{rows} * cols, blocks.data());
        for (const Kernels* kernels : tables()) {
            float y[tokens][rows];
            kernels->dot_tokens({type, blocks.data(), row_bytes, rows, x.data(), static_cast<size_t>(cols), tokens, cols, y[0], rows});
            for (int t = 0; t < tokens; ++t) {
                float alone[rows];
                kernels->dot_rows(type, blocks.data(), row_bytes, rows, x.data() + static_cast<size_t>(t) * cols, cols, alone);
                CHECK(std::ranges::equal(alone, y[t]));
            }
        }
    }
}

TEST(dot_rows_equals_dequantizing_for_every_format) {
    using dca::BlockType;
    const int rows = 3;
    for (const auto type : {BlockType::F32, BlockType::F16, BlockType::BF16, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1,
                            BlockType::Q5_0, BlockType::Q5_1, BlockType::Q2_K, BlockType::Q3_K, BlockType::Q4_K, BlockType::Q5_K,
                            BlockType::Q6_K, BlockType::IQ4_NL, BlockType::IQ4_XS, BlockType::MXFP4}) {
        const dca::BlockInfo& info = dca::block_info(type);
        // Odd sizes where the format allows them: neither block counts nor vectors come out even.
        const int cols = info.block_size == 1 ? 77 : info.block_size == 32 ? 32 * 5 : 256 * 3;
        const auto values = random_values(static_cast<size_t>(rows) * cols, 3);
        const auto x = random_values(cols, 4);
        const int64_t row_bytes = int64_t{cols} / info.block_size * info.block_bytes;
        std::vector<std::byte> blocks(static_cast<size_t>(rows * row_bytes));
        dca::encode_blocks(type, values.data(), int64_t{rows} * cols, blocks.data());
        std::vector<float> dequantized(values.size());
        dca::decode_blocks(type, blocks.data(), int64_t{rows} * cols, dequantized.data());
        for (const Kernels* kernels : tables()) {
            float y[rows];
            kernels->dot_rows(type, blocks.data(), row_bytes, rows, x.data(), cols, y);
            for (int r = 0; r < rows; ++r) {
                double sum = 0.0;
                for (int k = 0; k < cols; ++k) sum += double{dequantized[r * cols + k]} * x[k];
                CHECK(close(y[r], sum, 1e-5));
            }
        }
    }
}

TEST(rms_norm_and_gating_follow_their_formulas) {
    const int features = 21;
    const auto weight = random_values(features, 5);
    for (const Kernels* kernels : tables()) {
        for (const int lanes : {1, kPanelLanes}) {
            const auto x = random_values(static_cast<size_t>(features) * lanes, 6);
            std::vector<float> y(x.size());
            kernels->rms_norm(x.data(), weight.data(), y.data(), features, lanes, 1e-5f);
            bool right = true;
            for (int lane = 0; lane < lanes; ++lane) {
                double squares = 0.0;
                for (int f = 0; f < features; ++f) squares += double{x[f * lanes + lane]} * x[f * lanes + lane];
                const double scale = 1.0 / std::sqrt(squares / features + 1e-5);
                for (int f = 0; f < features; ++f) right &= close(y[f * lanes + lane], x[f * lanes + lane] * scale * weight[f], 1e-5);
            }
            CHECK(right);
        }
        std::vector<float> gate = random_values(67, 7);
        gate[0] = 200.0f, gate[1] = -200.0f, gate[2] = 0.0f;
        const auto before = gate;
        const auto up = random_values(67, 8);
        kernels->gate_multiply[static_cast<size_t>(dca::Activation::Silu)](gate.data(), up.data(), gate.size());
        bool right = true;
        for (size_t i = 0; i < gate.size(); ++i) right &= close(gate[i], before[i] / (1.0 + std::exp(-double{before[i]})) * up[i], 1e-6);
        CHECK(right);
    }
}

TEST(gates_follow_their_formulas) {
    std::vector<float> before = random_values(67, 30);
    before[0] = 200.0f, before[1] = -200.0f, before[2] = 0.0f, before[3] = 8.0f;
    auto up = random_values(67, 31);
    up[4] = 9.0f, up[5] = -9.0f;
    const auto gelu = [](double g, double u) {
        return 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979) * (g + 0.044715 * g * g * g))) * u;
    };
    const auto clamped = [](double g, double u) {
        g = std::min(g, 7.0);
        return g / (1.0 + std::exp(-1.702 * g)) * (std::clamp(u, -7.0, 7.0) + 1.0);
    };
    for (const Kernels* kernels : tables()) {
        std::vector<float> by_gelu = before, by_clamped = before;
        kernels->gate_multiply[static_cast<size_t>(dca::Activation::Gelu)](by_gelu.data(), up.data(), up.size());
        kernels->gate_multiply[static_cast<size_t>(dca::Activation::ClampedSwiglu)](by_clamped.data(), up.data(), up.size());
        bool right = true;
        for (size_t i = 0; i < up.size(); ++i) {
            right &= close(by_gelu[i], gelu(before[i], up[i]), 1e-5);
            right &= close(by_clamped[i], clamped(before[i], up[i]), 1e-5);
        }
        CHECK(right);
    }
}

TEST(layer_norm_follows_its_formula) {
    const int features = 21;
    const auto weight = random_values(features, 32), bias = random_values(features, 33);
    for (const Kernels* kernels : tables()) {
        for (const int lanes : {1, kPanelLanes}) {
            auto x = random_values(static_cast<size_t>(features) * lanes, 34);
            for (float& value : x) value += 3.0f;
            for (const float* shift : {bias.data(), static_cast<const float*>(nullptr)}) {
                std::vector<float> y(x.size());
                kernels->layer_norm(x.data(), weight.data(), shift, y.data(), features, lanes, 1e-5f);
                bool right = true;
                for (int lane = 0; lane < lanes; ++lane) {
                    double mean = 0.0, squares = 0.0;
                    for (int f = 0; f < features; ++f) mean += double{x[f * lanes + lane]} / features;
                    for (int f = 0; f < features; ++f) squares += (x[f * lanes + lane] - mean) * (x[f * lanes + lane] - mean) / features;
                    for (int f = 0; f < features; ++f) {
                        const double expected = (x[f * lanes + lane] - mean) / std::sqrt(squares + 1e-5) * weight[f];
                        right &= close(y[f * lanes + lane], expected + (shift != nullptr ? shift[f] : 0.0f), 1e-5);
                    }
                }
                CHECK(right);
            }
        }
    }
}

TEST(scale_and_cap_bends_what_is_large) {
    for (const Kernels* kernels : tables()) {
        for (const float cap : {0.0f, 30.0f}) {
            auto x = random_values(67, 35);
            x[0] = 1e4f, x[1] = -1e4f, x[2] = 1e-3f;
            const auto before = x;
            kernels->scale_and_cap(x.data(), 2.5f, cap, x.size());
            bool right = true;
            for (size_t i = 0; i < x.size(); ++i) {
                const double scaled = 2.5 * before[i];
                right &= close(x[i], cap == 0.0f ? scaled : cap * std::tanh(scaled / cap), 1e-5);
            }
            CHECK(right);
        }
    }
}

// A window of 60 keys and a cap of 2 (in units of log2 e), over two spans, for queries in a panel and alone.
TEST(attention_sees_through_windows_and_caps) {
    constexpr int group = 2, head_dim = 64;
    constexpr uint32_t keys = 300, first_query = 260, window = 60;
    constexpr float cap = 2.0f;
    const auto k = random_values(size_t{keys} * head_dim, 36);
    const auto v = random_values(size_t{keys} * head_dim, 37);
    auto q = random_values(static_cast<size_t>(group) * head_dim * kPanelLanes, 38);
    for (float& value : q) value *= 3.0f / std::sqrt(static_cast<float>(head_dim));
    for (const dca_cache_type type : {DCA_CACHE_F32, DCA_CACHE_F16}) {
        for (const Kernels* kernels : tables()) {
            const CpuKvCache cache = filled_cache(*kernels, type, head_dim, k, v);
            const auto t = static_cast<size_t>(cache.type());
            std::vector<float> out(q.size()), maximum(static_cast<size_t>(group) * kPanelLanes, -INFINITY), sum(maximum.size());
            std::vector<float> scratch(attend_scratch_floats(group, head_dim));
            for (const KeyRange span : {KeyRange{201, 250}, KeyRange{250, 292}}) {
                kernels->attend_panel_capped[t]({q.data(), out.data(), maximum.data(), sum.data(), group, head_dim, cache.view(0, 0), span,
                                                 first_query, scratch.data(), window, cap});
            }
            bool panel_right = true, row_right = true;
            for (const uint32_t lane : {0u, 7u, 31u}) {
                const uint32_t query = first_query + lane, begin = query + 1 - window;
                std::vector<float> row_q(static_cast<size_t>(group) * head_dim), row_out(row_q.size()), row_maximum(group, -INFINITY),
                    row_sum(group);
                for (size_t i = 0; i < row_q.size(); ++i) row_q[i] = q[i * kPanelLanes + lane];
                kernels->attend_row_capped[t]({row_q.data(),
                                               row_out.data(),
                                               row_maximum.data(),
                                               row_sum.data(),
                                               group,
                                               head_dim,
                                               cache.view(0, 0),
                                               {begin, query + 1},
                                               cap});
                for (int g = 0; g < group; ++g) {
                    std::vector<double> expected(head_dim);
                    double total = 0.0;
                    for (uint32_t j = begin; j <= query; ++j) {
                        double score = 0.0;
                        for (int d = 0; d < head_dim; ++d) score += double{row_q[g * head_dim + d]} * k[size_t{j} * head_dim + d];
                        const double weight = std::exp2(cap * std::tanh(score / cap));
                        total += weight;
                        for (int d = 0; d < head_dim; ++d) expected[d] += weight * v[size_t{j} * head_dim + d];
                    }
                    for (int d = 0; d < head_dim; ++d) {
                        const size_t at = (static_cast<size_t>(g) * head_dim + d) * kPanelLanes + lane;
                        const double tolerance = type == DCA_CACHE_F32 ? 2e-5 : 4e-3;
                        panel_right &= close(out[at] / sum[g * kPanelLanes + lane], expected[d] / total, tolerance);
                        row_right &= close(row_out[g * head_dim + d] / row_sum[g], expected[d] / total, tolerance);
                    }
                }
            }
            CHECK(panel_right);
            CHECK(row_right);
        }
    }
}

TEST(fold_exp_sum_is_log_sum_exp_in_pieces) {
    const int rows = 50;
    for (const Kernels* kernels : tables()) {
        for (const int lanes : {1, kPanelLanes}) {
            const auto x = random_values(static_cast<size_t>(rows) * lanes, 9);
            std::vector<float> maximum(lanes, -INFINITY), sum(lanes, 0.0f);
            kernels->fold_exp_sum(x.data(), 20, lanes, maximum.data(), sum.data());
            kernels->fold_exp_sum(x.data() + static_cast<size_t>(20) * lanes, rows - 20, lanes, maximum.data(), sum.data());
            bool right = true;
            for (int lane = 0; lane < lanes; ++lane) {
                double total = 0.0;
                for (int r = 0; r < rows; ++r) total += std::exp(double{x[r * lanes + lane]});
                right &= close(maximum[lane] + std::log(sum[lane]), std::log(total), 1e-6);
            }
            CHECK(right);
        }
    }
}

TEST(attention_over_a_span_is_a_softmax) {
    constexpr int group = 3;
    constexpr uint32_t keys = 170;
    struct Case {
        dca_cache_type type;
        double tolerance;
    };  // of the cache's own rounding
    for (const int head_dim : {16, 64, 80}) {
        const auto k = random_values(size_t{keys} * head_dim, 10);
        const auto v = random_values(size_t{keys} * head_dim, 11);
        for (const auto [type, tolerance] :
             {Case{DCA_CACHE_F32, 2e-5}, Case{DCA_CACHE_F16, 4e-3}, Case{DCA_CACHE_BF16, 4e-2}, Case{DCA_CACHE_Q8, 4e-2}}) {
            for (const Kernels* kernels : tables()) {
                const CpuKvCache cache = filled_cache(*kernels, type, head_dim, k, v);
                const auto t = static_cast<size_t>(cache.type());
                auto q = random_values(static_cast<size_t>(group) * head_dim * kPanelLanes, 12);
                for (float& value : q) value *= 1.4427f / std::sqrt(static_cast<float>(head_dim));
                // Lane 20's query stands at index 150; its keys are [5, 40) and then [40, 151).
                const int lane = 20;
                const uint32_t first_query = 130;
                std::vector<float> out(q.size()), maximum(static_cast<size_t>(group) * kPanelLanes, -INFINITY), sum(maximum.size());
                std::vector<float> scratch(attend_scratch_floats(group, head_dim));
                for (const KeyRange span : {KeyRange{5, 40}, KeyRange{40, 162}}) {
                    kernels->attend_panel[t]({q.data(), out.data(), maximum.data(), sum.data(), group, head_dim, cache.view(0, 0), span,
                                              first_query, scratch.data()});
                }
                std::vector<float> row_q(static_cast<size_t>(group) * head_dim), row_out(row_q.size()), row_maximum(group, -INFINITY),
                    row_sum(group);
                for (int g = 0; g < group; ++g) {
                    for (int d = 0; d < head_dim; ++d) row_q[g * head_dim + d] = q[(g * head_dim + d) * kPanelLanes + lane];
                }
                for (const KeyRange span : {KeyRange{5, 40}, KeyRange{40, 151}}) {
                    kernels->attend_row[t](
                        {row_q.data(), row_out.data(), row_maximum.data(), row_sum.data(), group, head_dim, cache.view(0, 0), span});
                }
                bool panel_right = true, row_right = true;
                for (int g = 0; g < group; ++g) {
                    std::vector<double> expected(head_dim);
                    double total = 0.0;
                    for (uint32_t j = 5; j < 151; ++j) {
                        double score = 0.0;
                        for (int d = 0; d < head_dim; ++d) score += double{row_q[g * head_dim + d]} * k[size_t{j} * head_dim + d];
                        total += std::exp2(score);
                        for (int d = 0; d < head_dim; ++d) expected[d] += std::exp2(score) * v[size_t{j} * head_dim + d];
                    }
                    for (int d = 0; d < head_dim; ++d) {
                        const size_t at = (static_cast<size_t>(g) * head_dim + d) * kPanelLanes + lane;
                        panel_right &= close(out[at] / sum[g * kPanelLanes + lane], expected[d] / total, tolerance);
                        row_right &= close(row_out[g * head_dim + d] / row_sum[g], expected[d] / total, tolerance);
                    }
                }
                CHECK(panel_right);
                CHECK(row_right);
            }
        }
    }
}

// Prefill's kernels may round what a 16-bit or 8-bit cache has rounded already (kernels/attention_int16.h);
// decode's multiply in f32. Outliers in one feature, one key and one value are what single scales suffer from.
TEST(attention_of_panels_and_rows_agrees_on_the_same_cache) {
    constexpr int group = 2;
    constexpr uint32_t keys = 700, first_query = 668;  // tiles of 128: some whole, some cut by a span or a query
    for (const int head_dim : {16, 64, 80, 128, 256}) {
        for (const float outlier : {1.0f, 200.0f}) {
            auto k = random_values(size_t{keys} * head_dim, 20);
            auto v = random_values(size_t{keys} * head_dim, 21);
            for (uint32_t j = 0; j < keys; ++j) k[size_t{j} * head_dim + 3] *= outlier;
            for (int d = 0; d < head_dim; ++d) k[200 * head_dim + d] *= outlier, v[201 * head_dim + d] *= outlier;
            auto q = random_values(static_cast<size_t>(group) * head_dim * kPanelLanes, 22);
            for (float& value : q) value *= 1.4427f / (std::sqrt(static_cast<float>(head_dim)) * outlier);
            for (const dca_cache_type type : {DCA_CACHE_F32, DCA_CACHE_F16, DCA_CACHE_BF16, DCA_CACHE_Q8}) {
                for (const Kernels* kernels : tables()) {
                    const CpuKvCache cache = filled_cache(*kernels, type, head_dim, k, v);
                    const auto t = static_cast<size_t>(cache.type());
                    std::vector<float> out(q.size()), maximum(static_cast<size_t>(group) * kPanelLanes, -INFINITY), sum(maximum.size());
                    std::vector<float> scratch(attend_scratch_floats(group, head_dim));
                    for (const KeyRange span : {KeyRange{7, 480}, KeyRange{480, keys}}) {
                        kernels->attend_panel[t]({q.data(), out.data(), maximum.data(), sum.data(), group, head_dim, cache.view(0, 0), span,
                                                  first_query, scratch.data()});
                    }
                    bool agree = true;
                    for (int lane = 0; lane < kPanelLanes; ++lane) {
                        const uint32_t end = std::min(keys, first_query + lane + 1);
                        std::vector<float> row_q(static_cast<size_t>(group) * head_dim), row_out(row_q.size()),
                            row_maximum(group, -INFINITY), row_sum(group);
                        for (size_t i = 0; i < row_q.size(); ++i) row_q[i] = q[i * kPanelLanes + lane];
                        kernels->attend_row[t]({row_q.data(),
                                                row_out.data(),
                                                row_maximum.data(),
                                                row_sum.data(),
                                                group,
                                                head_dim,
                                                cache.view(0, 0),
                                                {7, end}});
                        // A score may be off by about 2^-17 of both lengths, a value by as much of its column; hundreds of keys even that out.
                        const auto length = [=](const float* x) { return std::sqrt(std::inner_product(x, x + head_dim, x, 0.0)); };
                        for (int g = 0; g < group; ++g) {
                            double longest = 0.0, largest = 0.0;
                            for (uint32_t j = 7; j < end; ++j) {
                                longest = std::max(longest, length(row_q.data() + g * head_dim) * length(k.data() + size_t{j} * head_dim));
                                for (int d = 0; d < head_dim; ++d)
                                    largest = std::max(largest, std::fabs(double{v[size_t{j} * head_dim + d]}));
                            }
                            const double tolerance = type == DCA_CACHE_F32 ? 1e-6 : std::ldexp(1.0 + longest, -18);
                            for (int d = 0; d < head_dim; ++d) {
                                const double panel =
                                    out[(static_cast<size_t>(g) * head_dim + d) * kPanelLanes + lane] / sum[g * kPanelLanes + lane];
                                const double row = row_out[g * head_dim + d] / row_sum[g];
                                agree &= std::fabs(panel - row) <= tolerance * largest;
                            }
                        }
                    }
                    CHECK(agree);
                }
            }
        }
    }
}

TEST(thread_pool_runs_every_task_once) {
    for (const int threads : {1, 2, 5}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 200; ++round) {
            std::vector<int> seen(37);
            pool.run(37, [&](int task, int worker) {
                if (worker < threads) ++seen[task];
            });
            CHECK(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
        }
    }
}
