// The part of a model that each of several ranks has (tensor parallelism): whole heads, columns of the feed-forward, rows of
// the vocabulary. A rank is an ordinary model with fewer of each, whose matrices are views of the same file; what it adds to
// the residual stream is summed over the ranks (exchange.h).
//
//   W_q, W_k, W_v    rows of the rank's heads           W_o      columns of the rank's query heads
//   W_gate, W_up     rows of the rank's columns         W_down   the rank's columns; of a mixture the same of every expert,
//                                                               or, where a token takes many, all columns of some experts
//   output           rows of the rank's vocabulary      the rest, and biases of what is summed (rank 0 alone has them)   whole
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/hparams.h"
#include "core/weights.h"

namespace dca {

/// [first, first + count)
struct Run {
    uint32_t first = 0, count = 0;
    uint32_t end() const noexcept { return first + count; }
    bool operator==(const Run&) const = default;
};

/// What a rank has. Where there are fewer key heads than ranks, several ranks have the same one, with some of its query heads
/// each.
struct RankPart {
    Run heads, kv_heads, ff, experts, ff_expert, ff_shared, vocabulary;
};

/// Cuts a model for ranks that get shares of it in these proportions (all positive): at borders of key heads, and of the
/// blocks of quantised matrices that are cut by columns. Throws an unsupported error where there is nothing to cut for some
/// rank, or the model computes over all heads at once.
std::vector<RankPart> split_model(const Hparams& hparams, const Weights& weights, std::span<const float> shares);

/// A rank's model.
struct Shard {
    Hparams hparams;  // n_heads, n_kv_heads, n_ff, n_ff_expert, n_ff_shared and n_vocab are the part's
    Weights weights;  // token_embedding stays whole

    /// The whole model's prefill, with the part's budgets where it has some.
    PrefillSpec prefill(PrefillSpec whole) const {
        if (whole.stated != nullptr) whole.stated = &hparams.budgets;
        return whole;
    }
};
Shard shard_of(const Hparams& hparams, const Weights& weights, const RankPart& part, bool first_rank);

/// Cuts a model's layers for ranks that get shares of them in these proportions. Throws an unsupported error where there are
/// fewer layers than ranks.
std::vector<Run> split_layers(const Hparams& hparams, std::span<const float> shares);

/// A model of some of the layers; of the output matrix only where they end with the last.
Shard layers_of(const Hparams& hparams, const Weights& weights, Run layers);

}  // namespace dca
