#include "cuda/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/device/write_to_host.h"

namespace dca::cuda {

namespace {

size_t mask_words(uint32_t n_vocab) noexcept { return (size_t{n_vocab} + 31) / 32; }

bool on_the_host(const SampleRequest& request) noexcept { return request.top_logprobs != 0; }

/// Whether its row points to anything.
bool has_entries(const SampleRequest* request) noexcept {
    return !request->occurring.empty() || !request->biases.empty() || request->allowed != nullptr;
}

void place(Arena& arena, uint32_t n_vocab, const SampleRequest& request, ChooseRow& row) {
    row.occurring = arena.take<TokenValue>(request.occurring.size());
    row.biases = arena.take<TokenValue>(request.biases.size());
    row.allowed = request.allowed == nullptr ? nullptr : arena.take<uint32_t>(mask_words(n_vocab));
}

/// Sorted by token, those of one token in the order they had.
template <class Entry, class Value>
void write_entries(std::span<const Entry> from, TokenValue* to, Value&& value) {
    std::ranges::transform(from, to, [&](const Entry& entry) { return TokenValue{entry.token, value(entry), 0.0f}; });
    std::stable_sort(to, to + from.size(), [](const TokenValue& a, const TokenValue& b) { return a.token < b.token; });
}

}  // namespace

void Sampler::make_room(std::span<SampleRequest* const> requests, uint32_t n_vocab) {
    Arena size;
    static_cast<void>(size.take<ChooseRow>(requests.size()));
    ChooseRow row;
    for (const SampleRequest* request : requests) place(size, n_vocab, *request, row);
    bytes_ = size.bytes();
    if (bytes_ > capacity_) {
        const size_t capacity = std::max(bytes_, 2 * capacity_);
        capacity_ = 0;
        host_ = allocate_pinned(capacity, "describing samples");
        device_ = allocate_device(capacity, "describing samples");
        capacity_ = capacity;
    }
    if (requests.size() > most_chosen_) {
        most_chosen_ = 0;
        chosen_ = allocate_pinned(requests.size() * sizeof(Chosen), "describing samples");
        most_chosen_ = requests.size();
    }
    const size_t logits =
        n_vocab * static_cast<size_t>(std::ranges::count_if(requests, [](const auto* each) { return on_the_host(*each); }));
    if (logits > most_logits_) {
        most_logits_ = 0;
        logits_ = allocate_pinned(logits * sizeof(float), "reading logits");
        most_logits_ = logits;
    }
}

void Sampler::describe(std::span<SampleRequest* const> requests, uint32_t n_vocab) {
    Arena host(host_.get()), device(device_.get());
    ChooseRow* rows = host.take<ChooseRow>(requests.size());
    static_cast<void>(device.take<ChooseRow>(requests.size()));
    for (size_t i = 0; i < requests.size(); ++i) {
        const SampleRequest& request = *requests[i];
        ChooseRow here{};
        place(host, n_vocab, request, here);
        write_entries(request.occurring, here.occurring, [](const TokenCount& seen) { return static_cast<float>(seen.count); });
        write_entries(request.biases, here.biases, [](const TokenBias& bias) { return bias.bias; });
        if (request.allowed != nullptr) std::copy_n(request.allowed, mask_words(n_vocab), const_cast<uint32_t*>(here.allowed));

        ChooseRow& row = rows[i];
        row = {
            .temperature = request.temperature,
            .top_p = request.top_p,
            .log_min_p = request.min_p > 0.0f ? std::log(request.min_p) : -std::numeric_limits<float>::infinity(),
            .top_k = request.top_k,
            .repeat_penalty = request.repeat_penalty,
            .presence_penalty = request.presence_penalty,
            .frequency_penalty = request.frequency_penalty,
            .n_occurring = static_cast<uint32_t>(request.occurring.size()),
            .n_biases = static_cast<uint32_t>(request.biases.size()),
            .wants_logprob = request.wants_logprob,
            .seed = request.seed,
            .position = request.position,
            .occurring = nullptr,
            .biases = nullptr,
            .allowed = nullptr,
        };
        place(device, n_vocab, request, row);
        if (on_the_host(request)) row.temperature = 0.0f;  // its answer there is not read
    }
}

void Sampler::sample(const Card& card, float* logits, uint32_t n_vocab, std::span<SampleRequest* const> requests, cudaStream_t stream) {
    make_room(requests, n_vocab);
    describe(requests, n_vocab);
    float* copied = reinterpret_cast<float*>(logits_.get());
    for (size_t i = 0; i < requests.size(); ++i) {
        if (!on_the_host(*requests[i])) continue;
        check(write_to_host(logits + i * n_vocab, n_vocab, copied, stream), "reading logits");
        copied += n_vocab;
    }
    // Most requests have nothing but their row: a copy of it would come between the logits and the choice.
    const bool rows_only = std::ranges::none_of(requests, has_entries);
    if (!rows_only) check(cudaMemcpyAsync(device_.get(), host_.get(), bytes_, cudaMemcpyHostToDevice, stream), "describing samples");
    const auto* rows = reinterpret_cast<const ChooseRow*>(rows_only ? host_.get() : device_.get());
    auto* chosen = reinterpret_cast<Chosen*>(chosen_.get());
    check(choose_tokens(card, logits, n_vocab, rows, static_cast<uint32_t>(requests.size()), chosen, stream), "choosing tokens");
    check(cudaStreamSynchronize(stream), "running the model");
    copied = reinterpret_cast<float*>(logits_.get());
    for (size_t i = 0; i < requests.size(); ++i) {
        SampleRequest& request = *requests[i];
        if (on_the_host(request)) {
            dca::sample({copied, n_vocab}, request);
            copied += n_vocab;
            continue;
        }
        request.token = chosen[i].token;
        if (request.wants_logprob) request.logprob = chosen[i].logprob;
    }
}

}  // namespace dca::cuda
