#include "core/backend/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dca {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNever = -kInfinity;
constexpr float kLargestGumbel = 16.64f;  // -log(-log(u)) of the largest u that uniform_of gives

/// log of the sum of exp(logits); minus infinity where none is a number above it.
double log_sum(std::span<const float> logits, float top) {
    if (!(top > kNever)) return kNever;
    if (std::isinf(top)) return top;
    double sum = 0.0;
    for (const float logit : logits) {
        if (logit > kNever) sum += std::exp(logit - top);
    }
    return top + std::log(sum);
}

float largest(std::span<const float> logits) {
    float top = kNever;
    for (const float logit : logits) top = logit > top ? logit : top;  // false where it is no number
    return top;
}

float logprob_of(float logit, double log_sum) {
    if (std::isinf(log_sum)) return logit == log_sum && log_sum > 0 ? 0.0f : kNever;
    return static_cast<float>(logit - log_sum);
}

void report_likeliest(std::span<const float> logits, double total, SampleRequest& request) {
    const size_t count = std::min<size_t>(request.top_logprobs, logits.size());
    std::vector<int32_t> ids(logits.size());
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    const auto likelier = [&](int32_t a, int32_t b) {
        const float x = std::isnan(logits[a]) ? kNever : logits[a];
        const float y = std::isnan(logits[b]) ? kNever : logits[b];
        return x != y ? x > y : a < b;
    };
    std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count), ids.end(), likelier);
    request.top.clear();
    for (size_t i = 0; i < count; ++i) request.top.push_back({ids[i], logprob_of(logits[ids[i]], total)});
}

void adjust(std::span<float> logits, const SampleRequest& request) {
    for (const TokenCount& seen : request.occurring) {
        float& logit = logits[seen.token];
        logit = logit > 0.0f ? logit / request.repeat_penalty : logit * request.repeat_penalty;
        logit -= request.presence_penalty + request.frequency_penalty * static_cast<float>(seen.count);
    }
    for (const TokenBias& bias : request.biases) logits[bias.token] += bias.bias;
    for (size_t t = 0; t < logits.size(); ++t) {
        const bool allowed = request.allowed == nullptr || (request.allowed[t / 32] >> (t % 32) & 1) != 0;
        if (!allowed || std::isnan(logits[t])) logits[t] = kNever;
    }
}

/// The lowest logit that the filters keep.
float threshold(std::span<const float> logits, float top, const SampleRequest& request) {
    float lowest = std::nextafter(kNever, 0.0f);  // what is not allowed stays out
    if (request.min_p > 0.0f) lowest = std::max(lowest, top + std::log(request.min_p));
    const bool ranked = (request.top_k != 0 && request.top_k < logits.size()) || request.top_p < 1.0f;
    if (!ranked) return lowest;
    std::vector<float> kept;
    if (request.top_k != 0 && request.top_k < logits.size()) {
        kept.assign(logits.begin(), logits.end());
        std::nth_element(kept.begin(), kept.begin() + (request.top_k - 1), kept.end(), std::greater<>());
        lowest = std::max(lowest, kept[request.top_k - 1]);
    }
    if (request.top_p >= 1.0f) return lowest;
    // top_p looks at what top_k leaves; what min_p drops is less likely than all it keeps, so no sum before it changes.
    const float considered = request.top_k != 0 && request.top_k < logits.size() ? kept[request.top_k - 1] : kNever;
    double total = 0.0;
    kept.clear();
    for (const float logit : logits) {
        if (logit < considered || logit == kNever) continue;
        total += std::exp(logit - top);
        if (logit >= lowest) kept.push_back(logit);
    }
    std::sort(kept.begin(), kept.end(), std::greater<>());
    double reached = 0.0;
    for (const float logit : kept) {
        reached += std::exp(logit - top);
        if (reached >= request.top_p * total) return std::max(lowest, logit);
    }
    return lowest;
}

}  // namespace

void sample(std::span<float> logits, SampleRequest& request) {
    const bool reports = request.wants_logprob || request.top_logprobs != 0;
    const double total = reports ? log_sum(logits, largest(logits)) : 0.0;
    if (request.top_logprobs != 0) report_likeliest(logits, total, request);
    std::vector<float> own;  // the model's logits
    if (request.wants_logprob) own.assign(logits.begin(), logits.end());

    adjust(logits, request);
    const auto likeliest = std::ranges::max_element(logits);
    float top = *likeliest;
    if (top == kInfinity) {
        for (float& logit : logits) logit = logit == kInfinity ? 0.0f : kNever;
        top = 0.0f;
    }
    request.token = top > kNever ? static_cast<int32_t>(likeliest - logits.begin()) : -1;
    const bool draws = request.temperature > 0.0f && top > kNever;
    if (draws) {
        const float lowest = threshold(logits, top, request);
        // Against the largest logit, so that a tiny temperature takes the others to minus infinity, never the top beyond infinity.
        const auto value = [&](int32_t token) {
            const float uniform = uniform_of(request.seed, request.position, static_cast<uint32_t>(token));
            return (logits[token] - top) / request.temperature - std::log(-std::log(uniform));
        };
        float best = value(request.token);
        for (int32_t token = 0; token < static_cast<int32_t>(logits.size()); ++token) {
            if (!(logits[token] >= lowest) || (logits[token] - top) / request.temperature + kLargestGumbel < best) continue;
            if (const float here = value(token); here > best || (here == best && token < request.token)) {
                request.token = token;
                best = here;
            }
        }
    }
    if (request.wants_logprob) request.logprob = request.token < 0 ? kNever : logprob_of(own[request.token], total);
}

}  // namespace dca
