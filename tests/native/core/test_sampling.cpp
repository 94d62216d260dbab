// The choice of a token: filters against their definitions, the draw against the distribution it stands for.
#include "core/backend/sampling.h"

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "check.h"

using dca::SampleRequest;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNotANumber = std::numeric_limits<float>::quiet_NaN();

int32_t chosen(std::vector<float> logits, SampleRequest request = {}) {
    dca::sample(logits, request);
    return request.token;
}

/// Tokens that come up in many draws at a temperature that makes all of them about as likely.
std::map<int32_t, int> drawn(const std::vector<float>& logits, SampleRequest request, int draws = 400) {
    std::map<int32_t, int> counts;
    for (int i = 0; i < draws; ++i) {
        request.seed = static_cast<uint64_t>(i);
        ++counts[chosen(logits, request)];
    }
    return counts;
}

}  // namespace

TEST(sampling_greedy_takes_the_lowest_id_of_the_largest) { CHECK(chosen({1.0f, 3.0f, 3.0f, 2.0f}) == 1); }

TEST(sampling_ignores_what_is_no_number) {
    CHECK(chosen({kNotANumber, 1.0f, kNotANumber, 2.0f}) == 3);
    CHECK(chosen({kNotANumber, kNotANumber}) == -1);
    CHECK(chosen({-kInfinity, -kInfinity}) == -1);
    SampleRequest request;
    request.temperature = 1.0f;
    CHECK(chosen({1.0f, kInfinity, 2.0f}, request) == 1);
    CHECK(chosen({-kInfinity, -3.0f, kNotANumber}, request) == 1);
}

TEST(sampling_survives_any_temperature) {
    for (const float temperature : {1e-38f, 1e-10f, 1e10f, 3e38f}) {
        SampleRequest request;
        request.temperature = temperature;
        const int32_t token = chosen({-100.0f, 5.0f, 4.0f}, request);
        CHECK(token >= 0);
        if (temperature < 1.0f) CHECK(token == 1);
    }
}

TEST(sampling_top_k_keeps_the_likeliest) {
    SampleRequest request;
    request.temperature = 100.0f;
    request.top_k = 2;
    const auto counts = drawn({1.0f, 4.0f, 3.0f, 2.0f}, request);
    CHECK(counts.size() == 2u);
    CHECK(counts.contains(1) && counts.contains(2));
}

TEST(sampling_top_p_keeps_the_fewest_that_reach_it) {
    // Probabilities 0.5, 0.3, 0.15, 0.05.
    const std::vector<float> logits{std::log(0.3f), std::log(0.5f), std::log(0.05f), std::log(0.15f)};
    SampleRequest request;
    request.temperature = 100.0f;
    request.top_p = 0.79f;
    CHECK(drawn(logits, request).size() == 2u);
    request.top_p = 0.81f;
    CHECK(drawn(logits, request).size() == 3u);
    request.top_k = 2;  // of those left, 0.5 and 0.3 of 0.8, the first reaches 0.6 and the two 1
    request.top_p = 0.6f;
    CHECK(drawn(logits, request).size() == 1u);
}

TEST(sampling_min_p_drops_what_is_far_less_likely) {
    const std::vector<float> logits{std::log(0.6f), std::log(0.3f), std::log(0.1f)};
    SampleRequest request;
    request.temperature = 100.0f;
    request.min_p = 0.4f;
    CHECK(drawn(logits, request).size() == 2u);
    request.min_p = 0.6f;
    CHECK(drawn(logits, request).size() == 1u);
}

TEST(sampling_penalties_and_biases_move_logits) {
    const std::vector<dca::TokenCount> seen{{1, 3}};
    SampleRequest request;
    request.occurring = seen;
    request.repeat_penalty = 2.0f;
    CHECK(chosen({2.0f, 3.0f, 1.0f}, request) == 0);  // 3 / 2
    CHECK(chosen({-5.0f, -3.0f}, request) == 0);      // -3 * 2
    request.repeat_penalty = 1.0f;
    request.frequency_penalty = 0.4f;
    CHECK(chosen({2.0f, 3.0f}, request) == 0);  // 3 - 3 * 0.4
    request.frequency_penalty = 0.0f;
    request.presence_penalty = 0.9f;
    CHECK(chosen({2.0f, 3.0f}, request) == 1);  // 3 - 0.9
    const std::vector<dca::TokenBias> biases{{0, 5.0f}, {2, -kInfinity}};
    SampleRequest biased;
    biased.biases = biases;
    CHECK(chosen({1.0f, 3.0f, 9.0f}, biased) == 0);
}

TEST(sampling_a_mask_allows_its_tokens_alone) {
    std::vector<float> logits(70, 1.0f);
    logits[3] = 9.0f;
    const std::vector<uint32_t> mask{0, 0, 1u << (65 % 32)};
    SampleRequest request;
    request.allowed = mask.data();
    CHECK(chosen(logits, request) == 65);
    const std::vector<uint32_t> nothing(3, 0);
    request.allowed = nothing.data();
    CHECK(chosen(logits, request) == -1);
}

TEST(sampling_depends_on_seed_and_position_alone) {
    const std::vector<float> logits(50, 0.0f);
    SampleRequest request;
    request.temperature = 1.0f;
    request.seed = 7;
    request.position = 11;
    const int32_t first = chosen(logits, request);
    CHECK(chosen(logits, request) == first);
    std::map<int32_t, int> others;
    for (uint64_t position = 0; position < 40; ++position) {
        request.position = position;
        ++others[chosen(logits, request)];
    }
    CHECK(others.size() > 10u);
}

TEST(sampling_draws_as_likely_as_the_softmax_says) {
    const std::vector<float> logits{0.0f, 1.0f, 2.0f, -1.0f};
    constexpr int draws = 20000;
    SampleRequest request;
    request.temperature = 0.7f;
    const auto counts = drawn(logits, request, draws);
    double total = 0.0;
    for (const float logit : logits) total += std::exp(logit / 0.7);
    for (size_t token = 0; token < logits.size(); ++token) {
        const double share = std::exp(logits[token] / 0.7) / total;
        const double deviation = std::sqrt(draws * share * (1 - share));
        const double count = counts.contains(static_cast<int32_t>(token)) ? counts.at(static_cast<int32_t>(token)) : 0;
        CHECK(std::abs(count - draws * share) < 5 * deviation);
    }
}

TEST(sampling_reports_log_probabilities_of_the_model) {
    const std::vector<dca::TokenCount> seen{{0, 1}};
    SampleRequest request;
    request.occurring = seen;
    request.repeat_penalty = 100.0f;
    request.wants_logprob = true;
    request.top_logprobs = 2;
    std::vector<float> logits{std::log(0.7f) + 3, std::log(0.2f) + 3, std::log(0.1f) + 3};
    dca::sample(logits, request);
    CHECK(request.token == 1);
    CHECK(std::abs(request.logprob - std::log(0.2f)) < 1e-5f);
    CHECK(request.top.size() == 2u);
    CHECK(request.top[0].token == 0);
    CHECK(std::abs(request.top[0].logprob - std::log(0.7f)) < 1e-5f);
}

TEST(sampling_uniform_numbers_lie_inside_the_open_interval) {
    double sum = 0.0;
    for (uint32_t token = 0; token < 10000; ++token) {
        const float u = dca::uniform_of(3, 5, token);
        CHECK(u > 0.0f && u < 1.0f);
        sum += u;
    }
    CHECK(std::abs(sum / 10000 - 0.5) < 0.02);
}
