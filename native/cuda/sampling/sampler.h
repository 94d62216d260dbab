// From sample requests (core/backend/sampling.h) to the kernel that answers them.
#pragma once

#include <cstdint>
#include <span>

#include "core/backend/sampling.h"
#include "cuda/device/resources.h"
#include "cuda/sampling/choose.h"

namespace dca::cuda {

class Sampler {
public:
    /// Answers requests, one a row of `logits` (device memory, (requests, n_vocab)), which it overwrites. Rows that ask for
    /// the likeliest tokens' log-probabilities are copied to the host and answered there. Waits for `stream`.
    void sample(const Card& card, float* logits, uint32_t n_vocab, std::span<SampleRequest* const> requests, cudaStream_t stream);

private:
    void make_room(std::span<SampleRequest* const> requests, uint32_t n_vocab);
    void describe(std::span<SampleRequest* const> requests, uint32_t n_vocab);

    // Rows, then what they point to. Copied to the device, unless rows are all there is: those it reads where they are.
    PinnedMemory host_;
    DeviceMemory device_;
    size_t capacity_ = 0, bytes_ = 0;

    PinnedMemory chosen_;  // Chosen, that the device writes
    size_t most_chosen_ = 0;
    PinnedMemory logits_;  // of rows that the host answers, likewise
    size_t most_logits_ = 0;
};

}  // namespace dca::cuda
