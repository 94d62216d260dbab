// Sums through NCCL, for cards that do not reach each other's memory. The library is opened at run time: a machine with one
// card does without it.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

namespace dca::cuda {

struct DestroyCommunicator {
    void operator()(void* communicator) const noexcept;
};
/// A rank's.
using Communicator = std::unique_ptr<void, DestroyCommunicator>;

/// One for each of these cards. Throws a device error: there is no NCCL, or it does not work here.
std::vector<Communicator> make_communicators(const std::vector<int>& cards);

enum class NcclType : int { F16 = 6, F32 = 7, BF16 = 9 };  // as nccl.h numbers them

/// n values become their sum over all ranks, each of which calls it; launches on `stream`. Throws a device error.
void sum_by_nccl(const Communicator& communicator, void* values, size_t n, NcclType type, cudaStream_t stream);

/// What runs on it ends, unfinished. It is of no use afterwards.
void abort_communicator(Communicator& communicator) noexcept;

}  // namespace dca::cuda
