#include "core/ranks/shard.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace dca {

namespace {

// Columns and vocabulary are cut at multiples of these: kernels need the one and like the other.
constexpr uint32_t kFine = 8, kCoarse = 64;

// From so many experts a token on, ranks have some of the experts each. Matrices stay whole then, and rows are fewer but longer
// products: two H100 read prompts a tenth (Mixtral, 2 of 8) to a fifth sooner (Qwen 3, 8 of 128), 64 sequences 8 and 61 %. But of
// few experts most may be on one rank while the other waits: one row of Mixtral takes a fifth longer, of Qwen 3 as long.
constexpr uint32_t kExpertsToShareOut = 4;

/// The coarse one where it leaves the parts about equal.
uint32_t grain_of(uint32_t length, size_t ranks) { return length >= 16 * kCoarse * ranks ? kCoarse : kFine; }

/// Cuts `units` into runs of about the shares' proportions, each at least one long; there are as many units as shares.
std::vector<Run> runs_of(uint32_t units, std::span<const float> shares) {
    const double whole = std::accumulate(shares.begin(), shares.end(), 0.0);
    const auto n = static_cast<uint32_t>(shares.size());
    std::vector<Run> runs;
    double until = 0.0;
    uint32_t first = 0;
    for (uint32_t i = 0; i < n; ++i) {
        until += shares[i];
        const auto ideal = static_cast<uint32_t>(std::lround(units * until / whole));
        const uint32_t end = std::clamp(ideal, first + 1, units - (n - 1 - i));
        runs.push_back({first, end - first});
        first = end;
    }
    return runs;
}

/// Cuts `length` at multiples of `unit`; nothing where there is nothing to cut.
std::vector<Run> cut(uint32_t length, uint32_t unit, std::span<const float> shares, const char* what) {
    if (length == 0) return std::vector<Run>(shares.size());
    const uint32_t units = (length + unit - 1) / unit;
    if (units < shares.size()) {
        fail(DCA_ERROR_UNSUPPORTED, "this model's ", what, " (", length, ", cut in units of ", unit, ") cannot be shared by ",
             shares.size(), " ranks; take fewer cards");
    }
    std::vector<Run> runs = runs_of(units, shares);
    for (Run& run : runs) {
        const uint32_t end = std::min(run.end() * unit, length);
        run.first *= unit;
        run.count = end - run.first;
    }
    return runs;
}

/// The smallest number of columns at whose multiples every layer's matrix can be cut.
template <class Matrix>
uint32_t block_of(const Weights& weights, Matrix&& matrix) {
    uint32_t block = 1;
    for (const LayerWeights& layer : weights.layers) {
        const Tensor& tensor = matrix(layer);
        if (tensor) block = std::lcm(block, block_info(tensor.type).block_size);
    }
    return block;
}

void cut_heads(const Hparams& h, const Weights& w, std::span<const float> shares, std::vector<RankPart>& parts) {
    const uint32_t group = h.n_heads / h.n_kv_heads, n = static_cast<uint32_t>(shares.size());
    const uint32_t block = block_of(w, [](const LayerWeights& layer) -> const Tensor& { return layer.output; });
    const uint32_t unit = block / std::gcd(block, h.head_dim);  // query heads whose columns are whole blocks
    if (h.n_kv_heads >= n) {
        const std::vector<Run> runs = cut(h.n_kv_heads, unit / std::gcd(unit, group), shares, "number of key heads");
        for (uint32_t r = 0; r < n; ++r) {
            parts[r].kv_heads = runs[r];
            parts[r].heads = {runs[r].first * group, runs[r].count * group};
        }
        return;
    }
    // Fewer key heads than ranks: rank r has key head r · n_kv_heads / n, and the ranks of one share its query heads.
    for (uint32_t head = 0; head < h.n_kv_heads; ++head) {
        const uint32_t first = (head * n + h.n_kv_heads - 1) / h.n_kv_heads;
        const uint32_t end = ((head + 1) * n + h.n_kv_heads - 1) / h.n_kv_heads;
        const std::vector<Run> runs = cut(group, unit, shares.subspan(first, end - first), "number of query heads of a key head");
        for (uint32_t r = first; r < end; ++r) {
            parts[r].kv_heads = {head, 1};
            parts[r].heads = {head * group + runs[r - first].first, runs[r - first].count};
        }
    }
}

/// Runs of `width` values each of a vector that has so many for every item; an empty one stays empty.
std::vector<float> sliced(const std::vector<float>& values, Run run, uint32_t width) {
    if (values.empty()) return {};
    const auto begin = values.begin() + static_cast<ptrdiff_t>(size_t{run.first} * width);
    return {begin, begin + static_cast<ptrdiff_t>(size_t{run.count} * width)};
}

/// The same of every row of (rows, width).
template <class T>
std::vector<T> columns_of(const std::vector<T>& values, Run run, uint32_t width) {
    std::vector<T> part;
    for (size_t row = 0; row < values.size(); row += width)
        part.insert(part.end(), values.begin() + static_cast<ptrdiff_t>(row + run.first),
                    values.begin() + static_cast<ptrdiff_t>(row + run.end()));
    return part;
}

Tensor rows_of(const Tensor& tensor, Run run, uint32_t width) {
    return tensor ? tensor.row_slice(int64_t{run.first} * width, int64_t{run.count} * width) : tensor;
}

Tensor experts_of(const Tensor& tensor, Run run) { return tensor ? tensor.expert_slice(run.first, run.count) : tensor; }

Tensor cols_of(const Tensor& tensor, Run run, uint32_t width) {
    return tensor ? tensor.column_slice(int64_t{run.first} * width, int64_t{run.count} * width) : tensor;
}

LayerWeights layer_of(const Hparams& h, const LayerWeights& whole, const RankPart& part, bool first_rank) {
    LayerWeights layer = whole;
    layer.q = rows_of(whole.q, part.heads, h.head_dim);
    layer.k = rows_of(whole.k, part.kv_heads, h.head_dim);
    layer.v = rows_of(whole.v, part.kv_heads, h.head_dim);
    layer.q_bias = sliced(whole.q_bias, part.heads, h.head_dim);
    layer.k_bias = sliced(whole.k_bias, part.kv_heads, h.head_dim);
    layer.v_bias = sliced(whole.v_bias, part.kv_heads, h.head_dim);
    if (whole.q_norm.size() > h.head_dim) layer.q_norm = sliced(whole.q_norm, part.heads, h.head_dim);
    if (whole.k_norm.size() > h.head_dim) layer.k_norm = sliced(whole.k_norm, part.kv_heads, h.head_dim);
    layer.sinks = sliced(whole.sinks, part.heads, 1);
    layer.output = cols_of(whole.output, part.heads, h.head_dim);

    layer.gate = rows_of(whole.gate, part.ff, 1);
    layer.up = rows_of(whole.up, part.ff, 1);
    layer.down = cols_of(whole.down, part.ff, 1);
    layer.gate_bias = sliced(whole.gate_bias, part.ff, 1);
    layer.up_bias = sliced(whole.up_bias, part.ff, 1);

    layer.first_expert = part.experts.first;
    layer.expert_gate = rows_of(experts_of(whole.expert_gate, part.experts), part.ff_expert, 1);
    layer.expert_up = rows_of(experts_of(whole.expert_up, part.experts), part.ff_expert, 1);
    layer.expert_down = cols_of(experts_of(whole.expert_down, part.experts), part.ff_expert, 1);
    layer.expert_gate_bias = columns_of(sliced(whole.expert_gate_bias, part.experts, h.n_ff_expert), part.ff_expert, h.n_ff_expert);
    layer.expert_up_bias = columns_of(sliced(whole.expert_up_bias, part.experts, h.n_ff_expert), part.ff_expert, h.n_ff_expert);
    layer.expert_down_bias = sliced(whole.expert_down_bias, part.experts, h.n_embd);
    layer.shared_gate = rows_of(whole.shared_gate, part.ff_shared, 1);
    layer.shared_up = rows_of(whole.shared_up, part.ff_shared, 1);
    layer.shared_down = cols_of(whole.shared_down, part.ff_shared, 1);
    if (!first_rank) {
        layer.output_bias.clear();
        layer.down_bias.clear();
        if (part.experts.count == h.n_experts) layer.expert_down_bias.clear();
    }
    return layer;
}

}  // namespace

std::vector<RankPart> split_model(const Hparams& h, const Weights& w, std::span<const float> shares) {
    if (h.whole_width_qk_norm) {
        fail(DCA_ERROR_UNSUPPORTED, "this ", h.architecture,
             " model norms q and k over all heads together, which ranks cannot share; take one card");
    }
    std::vector<RankPart> parts(shares.size());
    cut_heads(h, w, shares, parts);
    const auto columns = [&](uint32_t length, Run RankPart::* run, const char* what, auto&& matrix) {
        const std::vector<Run> runs = cut(length, std::lcm(grain_of(length, shares.size()), block_of(w, matrix)), shares, what);
        for (size_t r = 0; r < parts.size(); ++r) parts[r].*run = runs[r];
    };
    columns(h.n_ff, &RankPart::ff, "feed-forward width", [](const LayerWeights& layer) -> const Tensor& { return layer.down; });
    if (h.n_experts_used >= kExpertsToShareOut) {
        const std::vector<Run> experts = cut(h.n_experts, 1, shares, "number of experts");
        for (size_t r = 0; r < parts.size(); ++r) parts[r].experts = experts[r], parts[r].ff_expert = {0, h.n_ff_expert};
    } else {
        for (RankPart& part : parts) part.experts = {0, h.n_experts};
        columns(h.n_ff_expert, &RankPart::ff_expert, "experts' width",
                [](const LayerWeights& layer) -> const Tensor& { return layer.expert_down; });
    }
    columns(h.n_ff_shared, &RankPart::ff_shared, "shared expert's width",
            [](const LayerWeights& layer) -> const Tensor& { return layer.shared_down; });
    const std::vector<Run> vocabulary = cut(h.n_vocab, grain_of(h.n_vocab, shares.size()), shares, "vocabulary");
    for (size_t r = 0; r < parts.size(); ++r) parts[r].vocabulary = vocabulary[r];
    return parts;
}

Shard shard_of(const Hparams& h, const Weights& w, const RankPart& part, bool first_rank) {
    Shard shard{h, w};
    shard.hparams.n_heads = part.heads.count;
    shard.hparams.n_kv_heads = part.kv_heads.count;
    shard.hparams.n_ff = part.ff.count;
    shard.hparams.n_ff_expert = part.ff_expert.count;
    shard.hparams.n_ff_shared = part.ff_shared.count;
    shard.hparams.n_vocab = part.vocabulary.count;
    shard.hparams.budgets.heads = columns_of(h.budgets.heads, part.heads, h.n_heads);
    for (size_t i = 0; i < w.layers.size(); ++i) shard.weights.layers[i] = layer_of(h, w.layers[i], part, first_rank);
    shard.weights.output = rows_of(w.output, part.vocabulary, 1);
    return shard;
}

std::vector<Run> split_layers(const Hparams& h, std::span<const float> shares) { return cut(h.n_layers, 1, shares, "number of layers"); }

Shard layers_of(const Hparams& h, const Weights& w, Run layers) {
    const auto some = [&](const auto& all) { return std::vector(all.begin() + layers.first, all.begin() + layers.end()); };
    Shard shard{h, w};
    shard.hparams.n_layers = layers.count;
    shard.hparams.layers = some(h.layers);
    if (std::vector<LineBudget>& budgets = shard.hparams.budgets.heads; !budgets.empty())
        budgets = {budgets.begin() + size_t{layers.first} * h.n_heads, budgets.begin() + size_t{layers.end()} * h.n_heads};
    shard.weights.layers = some(w.layers);
    if (layers.end() != h.n_layers) shard.weights.output = w.token_embedding;  // nothing is multiplied with it
    return shard;
}

}  // namespace dca
