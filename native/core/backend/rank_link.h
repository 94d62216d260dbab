// Where a rank stands that shares a model with others (core/ranks).
#pragma once

#include <cstdint>

namespace dca {

class Exchange;
class Executor;

/// One rank's place among others: in an exchange, where they share every matrix, or in a chain, where each has some of the
/// layers. Alone it is in neither.
struct RankLink {
    uint32_t rank = 0;
    Exchange* exchange = nullptr;
    Executor* previous = nullptr;  // whose residual stream this one goes on with, of the same kind; null: it starts with tokens
    bool last = true;              // its last layer is the model's
};

}  // namespace dca
