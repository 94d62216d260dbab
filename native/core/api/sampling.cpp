#include "core/api/sampling.h"

#include <algorithm>
#include <cmath>

#include "core/api/support.h"

namespace dca {

namespace {

constexpr uint32_t kMostTopLogprobs = 1024;

constexpr dca_sampling kDefaultSampling{.size = sizeof(dca_sampling),
                                        .temperature = 0.0f,
                                        .top_k = 0,
                                        .top_p = 1.0f,
                                        .min_p = 0.0f,
                                        .repeat_penalty = 1.0f,
                                        .presence_penalty = 0.0f,
                                        .frequency_penalty = 0.0f,
                                        .penalty_window = 64,
                                        .seed = 0,
                                        .biases = nullptr,
                                        .n_biases = 0,
                                        .allowed = nullptr,
                                        .logprob = 0,
                                        .top_logprobs = 0,
                                        .top = nullptr};

void check_range(bool good, const char* name, float value, const char* wanted) {
    if (!good) fail(DCA_ERROR_ARGUMENT, name, " is ", value, ", must be ", wanted);
}

}  // namespace

SampleRequest SamplingCall::request(const dca_sampling& sampling, std::span<const int32_t> held, std::span<const int32_t> fed,
                                    uint32_t n_vocab, size_t index) {
    const dca_sampling s = merged(kDefaultSampling, &sampling);
    check_range(s.temperature >= 0.0f && std::isfinite(s.temperature), "temperature", s.temperature, "finite and at least 0");
    check_range(s.top_p > 0.0f && s.top_p <= 1.0f, "top_p", s.top_p, "above 0 and at most 1");
    check_range(s.min_p >= 0.0f && s.min_p <= 1.0f, "min_p", s.min_p, "from 0 to 1");
    check_range(s.repeat_penalty > 0.0f && std::isfinite(s.repeat_penalty), "repeat_penalty", s.repeat_penalty, "finite and above 0");
    check_range(std::isfinite(s.presence_penalty), "presence_penalty", s.presence_penalty, "finite");
    check_range(std::isfinite(s.frequency_penalty), "frequency_penalty", s.frequency_penalty, "finite");
    if (s.n_biases != 0) needed(s.biases, "biases");
    if (s.top_logprobs > kMostTopLogprobs)
        fail(DCA_ERROR_ARGUMENT, "top_logprobs is ", s.top_logprobs, ", must be at most ", kMostTopLogprobs);
    if (s.top_logprobs != 0) needed(s.top, "top");
    for (size_t i = 0; i < s.n_biases; ++i) {
        const auto [token, value] = s.biases[i];
        if (token < 0 || static_cast<uint32_t>(token) >= n_vocab) {
            fail(DCA_ERROR_ARGUMENT, "the bias of token ", token, ": must be a token from 0 to ", n_vocab - 1);
        }
        check_range(!std::isnan(value), "a bias", value, "a number");
        biases_.push_back({token, value});
    }
    if (s.repeat_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f) count(held, fed, s.penalty_window);
    top_ = s.top_logprobs == 0 ? nullptr : s.top + index * s.top_logprobs;

    SampleRequest request;
    request.temperature = s.temperature;
    request.top_k = s.top_k;
    request.top_p = s.top_p;
    request.min_p = s.min_p;
    request.repeat_penalty = s.repeat_penalty;
    request.presence_penalty = s.presence_penalty;
    request.frequency_penalty = s.frequency_penalty;
    request.seed = s.seed;
    request.position = held.size() + fed.size();
    request.occurring = occurring_;
    request.biases = biases_;
    request.allowed = s.allowed;
    request.wants_logprob = s.logprob != 0;
    request.top_logprobs = s.top_logprobs;
    return request;
}

dca_choice SamplingCall::answer(const SampleRequest& request) const {
    for (size_t i = 0; i < request.top.size(); ++i) top_[i] = {request.top[i].token, request.top[i].logprob};
    return {request.token, request.logprob};
}

void SamplingCall::count(std::span<const int32_t> held, std::span<const int32_t> fed, uint32_t window) {
    const size_t of_fed = std::min<size_t>(window, fed.size());
    const size_t of_held = std::min<size_t>(window - of_fed, held.size());
    const std::span<const int32_t> last_held = held.last(of_held);
    const std::span<const int32_t> last_fed = fed.last(of_fed);
    std::vector<int32_t> recent(last_held.begin(), last_held.end());
    recent.insert(recent.end(), last_fed.begin(), last_fed.end());
    std::ranges::sort(recent);
    for (const int32_t token : recent) {
        if (occurring_.empty() || occurring_.back().token != token) occurring_.push_back({token, 0});
        ++occurring_.back().count;
    }
}

}  // namespace dca

using dca::guarded;
using dca::needed;

void dca_sampling_default(dca_sampling* sampling) { dca::fill_default(sampling, dca::kDefaultSampling); }

dca_status dca_sample(const float* logits, size_t n_vocab, const int32_t* history, size_t n_history, const dca_sampling* sampling,
                      dca_choice* choice) {
    return guarded([&] {
        needed(logits, "logits");
        if (n_history != 0) needed(history, "history");
        needed(choice, "choice");
        if (n_vocab == 0 || n_vocab > INT32_MAX) dca::fail(DCA_ERROR_ARGUMENT, "n_vocab is ", n_vocab, ", must be 1 to ", INT32_MAX);
        for (size_t i = 0; i < n_history; ++i) {
            if (history[i] < 0 || static_cast<size_t>(history[i]) >= n_vocab) {
                dca::fail(DCA_ERROR_ARGUMENT, "token id ", history[i], " at index ", i, " is not in the vocabulary of ", n_vocab,
                          " tokens");
            }
        }
        dca::SamplingCall call;
        dca::SampleRequest request = call.request(needed(sampling, "sampling"), {history, n_history}, {}, static_cast<uint32_t>(n_vocab));
        std::vector<float> own(logits, logits + n_vocab);
        dca::sample(own, request);
        *choice = call.answer(request);
    });
}
