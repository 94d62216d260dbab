// What launches need to know about a card.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace dca::cuda {

struct Card {
    int compute_capability = 0;  // 10 major + minor
    int multiprocessors = 0;
    size_t shared_bytes = 0;  // that a block can have
    size_t l2_bytes = 0;
};

/// Asks the driver, which takes longer than a launch: once a card.
cudaError_t describe_card(int ordinal, Card& card);

/// Whether this build holds code that the current card can run; an error that is about something else is `other`.
bool has_kernels(cudaError_t& other);

}  // namespace dca::cuda
