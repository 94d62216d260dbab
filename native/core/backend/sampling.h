// How the next token is chosen from a row of logits: the same choice whoever else is in the batch.
//
// The filters look at the model's own distribution, after penalties, bias and mask; the temperature comes last. The
// draw is argmax(logit / temperature + g), with g a Gumbel variable for each token made from (seed, position, token)
// alone: exactly a sample of the softmax, with no sum whose order could change it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/positions/host_device.h"

namespace dca {

struct TokenCount {
    int32_t token;
    uint32_t count;  // how often it occurs in what the penalties look at
};

struct TokenBias {
    int32_t token;
    float bias;  // added to its logit
};

struct TokenLogprob {
    int32_t token;
    float logprob;  // natural logarithm
};

struct SampleRequest {
    float temperature = 0.0f;        // 0: the likeliest token, the lowest id among equals
    uint32_t top_k = 0;              // keep this many of the likeliest (and what equals the last of them); 0: all
    float top_p = 1.0f;              // keep the likeliest that together reach this probability
    float min_p = 0.0f;              // drop what is less likely than this share of the likeliest
    float repeat_penalty = 1.0f;     // logits of tokens that occur are divided by it (multiplied if negative)
    float presence_penalty = 0.0f;   // subtracted from the logits of tokens that occur
    float frequency_penalty = 0.0f;  // the same, times how often they do
    uint64_t seed = 0;
    uint64_t position = 0;  // index of the token to be chosen
    std::span<const TokenCount> occurring;
    std::span<const TokenBias> biases;
    const uint32_t* allowed = nullptr;  // bit (t % 32) of word t / 32: token t may be chosen; null: all
    bool wants_logprob = false;         // of the chosen token; costs a pass over the vocabulary
    uint32_t top_logprobs = 0;          // how many of the likeliest tokens are reported

    // The answer. Log-probabilities are the model's own, before penalties, bias and mask.
    int32_t token = -1;             // -1: no token is allowed, or no logit is a number
    float logprob = 0.0f;           // if wanted
    std::vector<TokenLogprob> top;  // the likeliest first
};

/// A number in (0, 1) from the three, equal on every machine: the top bits of a SplitMix64 chain (Steele et al., 2014).
DCA_HOST_DEVICE float uniform_of(uint64_t seed, uint64_t position, uint32_t token) noexcept {
    const auto mix = [](uint64_t z) {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    };
    const uint64_t bits = mix(mix(mix(seed + 0x9e3779b97f4a7c15u) + position) + token);
    return (static_cast<float>(bits >> 41) + 0.5f) * 0x1p-23f;
}

/// Chooses from `logits`, which it overwrites. Tokens whose logit is not a number are never chosen; +inf wins over all
/// that is finite, and several of them are equally likely.
void sample(std::span<float> logits, SampleRequest& request);

}  // namespace dca
