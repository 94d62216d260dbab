// One model on several ranks, as one backend: each rank is an ordinary backend of a part of the model (shard.h) with a thread
// of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/ranks/exchange.h"

namespace dca {

/// The machine that ranks are of.
struct GroupMachine {
    /// Makes a rank's backend over its part of the model; called in the rank's thread.
    std::function<std::unique_ptr<Backend>(uint32_t rank, const BackendSource& source)> make_rank;
    /// Makes what the ranks of one engine share, from the borders of their vocabularies (exchange.h).
    std::function<std::unique_ptr<Exchange>(std::vector<uint32_t> vocabulary)> make_exchange;
    std::vector<float> shares;  // of the model, by rank; only their proportions count
    /// Of all ranks together, from the first one's: "cuda:0,1 (NVIDIA ..., 2 cards)".
    std::function<std::string(const std::string& first)> describe;
};

/// Throws an unsupported error for a model that so many ranks cannot share.
std::unique_ptr<Backend> make_group_backend(const BackendSource& source, GroupMachine machine);

/// One model on several ranks of which each has some of the layers and works after the one before; make_exchange is not
/// called, and make_rank in the caller's thread.
std::unique_ptr<Backend> make_chain_backend(const BackendSource& source, GroupMachine machine);

}  // namespace dca
