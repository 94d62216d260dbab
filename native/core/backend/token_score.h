// How likely a token is after a row of logits, in two numbers that ranks which share the vocabulary can put together.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace dca {

struct TokenScore {
    double log_sum;  // of the exponentials of the row's logits
    float logit;     // the token's; minus infinity where it is another rank's
};

/// -log p of the token. Infinite logits share all of the probability.
inline float negative_log_likelihood(const TokenScore& score) {
    if (std::isinf(score.log_sum)) return score.log_sum > 0 && score.logit == static_cast<float>(score.log_sum) ? 0.0f : INFINITY;
    return static_cast<float>(score.log_sum - score.logit);
}

/// The score over all rows of the vocabulary from those over its parts.
inline TokenScore combined(std::span<const TokenScore> parts) {
    double top = -INFINITY, sum = 0.0;
    float logit = -INFINITY;
    for (const TokenScore& part : parts) {
        top = std::max(top, part.log_sum);
        logit = std::max(logit, part.logit);
    }
    if (std::isinf(top)) return {top, logit};
    for (const TokenScore& part : parts) sum += std::exp(part.log_sum - top);
    return {top + std::log(sum), logit};
}

}  // namespace dca
