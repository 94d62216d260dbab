// What each of several ranks gets of a model, and the views of tensors that it is made of.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "core/ranks/shard.h"
#include "core/error.h"

namespace {

using dca::BlockType;
using dca::RankPart;
using dca::Run;

/// A model of one layer whose matrices have types and no data.
struct Sketch {
    dca::Hparams h;
    dca::Weights w;
};

Sketch sketch(uint32_t heads, uint32_t kv_heads, uint32_t head_dim, uint32_t n_ff, BlockType type = BlockType::F16) {
    static const std::byte somewhere[16] = {};
    Sketch model;
    model.h.n_heads = heads;
    model.h.n_kv_heads = kv_heads;
    model.h.head_dim = head_dim;
    model.h.n_ff = n_ff;
    model.h.n_vocab = 512;
    model.w.layers.resize(1);
    for (dca::Tensor* matrix : {&model.w.layers[0].output, &model.w.layers[0].down}) {
        matrix->type = type;
        matrix->data = somewhere;
    }
    return model;
}

std::vector<RankPart> split(const Sketch& model, std::vector<float> shares) { return dca::split_model(model.h, model.w, shares); }

std::vector<Run> runs(const std::vector<RankPart>& parts, Run RankPart::* of) {
    std::vector<Run> all;
    for (const RankPart& part : parts) all.push_back(part.*of);
    return all;
}

std::vector<std::byte> numbered(size_t bytes) {
    std::vector<std::byte> memory(bytes);
    for (size_t i = 0; i < bytes; ++i) memory[i] = static_cast<std::byte>(i * 31 + i / 251);
    return memory;
}

}  // namespace

TEST(a_rank_gets_whole_key_heads_with_their_query_heads) {
    const auto parts = split(sketch(32, 8, 128, 14336), {1, 1});
    CHECK((runs(parts, &RankPart::kv_heads) == std::vector<Run>{{0, 4}, {4, 4}}));
    CHECK((runs(parts, &RankPart::heads) == std::vector<Run>{{0, 16}, {16, 16}}));
    CHECK((runs(parts, &RankPart::ff) == std::vector<Run>{{0, 7168}, {7168, 7168}}));
    CHECK((runs(parts, &RankPart::vocabulary) == std::vector<Run>{{0, 256}, {256, 256}}));
    CHECK((runs(parts, &RankPart::ff_expert) == std::vector<Run>{{}, {}}));
}

TEST(an_uneven_number_of_key_heads_is_split_unevenly) {
    const auto parts = split(sketch(9, 3, 64, 1536), {1, 1});
    CHECK((runs(parts, &RankPart::kv_heads) == std::vector<Run>{{0, 2}, {2, 1}}));
    CHECK((runs(parts, &RankPart::heads) == std::vector<Run>{{0, 6}, {6, 3}}));
}

TEST(fewer_key_heads_than_ranks_are_had_by_several) {
    const auto four = split(sketch(16, 2, 64, 512), {1, 1, 1, 1});
    CHECK((runs(four, &RankPart::kv_heads) == std::vector<Run>{{0, 1}, {0, 1}, {1, 1}, {1, 1}}));
    CHECK((runs(four, &RankPart::heads) == std::vector<Run>{{0, 4}, {4, 4}, {8, 4}, {12, 4}}));
    const auto three = split(sketch(8, 2, 64, 512), {1, 1, 1});
    CHECK((runs(three, &RankPart::kv_heads) == std::vector<Run>{{0, 1}, {0, 1}, {1, 1}}));
    CHECK((runs(three, &RankPart::heads) == std::vector<Run>{{0, 2}, {2, 2}, {4, 4}}));
}

TEST(experts_are_cut_where_a_token_takes_few_and_shared_out_where_it_takes_many) {
    Sketch few = sketch(8, 8, 64, 0);
    few.h.n_experts = 8;
    few.h.n_experts_used = 2;
    few.h.n_ff_expert = 512;
    few.w.layers[0].expert_down = few.w.layers[0].down;
    CHECK((runs(split(few, {1, 1}), &RankPart::experts) == std::vector<Run>{{0, 8}, {0, 8}}));
    CHECK((runs(split(few, {1, 1}), &RankPart::ff_expert) == std::vector<Run>{{0, 256}, {256, 256}}));
    Sketch many = few;
    many.h.n_experts_used = 4;
    CHECK((runs(split(many, {1, 1, 1}), &RankPart::experts) == std::vector<Run>{{0, 3}, {3, 2}, {5, 3}}));
    CHECK((runs(split(many, {3, 1}), &RankPart::experts) == std::vector<Run>{{0, 6}, {6, 2}}));
    CHECK((runs(split(many, {1, 1}), &RankPart::ff_expert) == std::vector<Run>{{0, 512}, {0, 512}}));
}

TEST(parts_follow_the_shares) {
    const auto parts = split(sketch(32, 8, 128, 8192), {3, 1});
    CHECK((runs(parts, &RankPart::kv_heads) == std::vector<Run>{{0, 6}, {6, 2}}));
    CHECK((runs(parts, &RankPart::ff) == std::vector<Run>{{0, 6144}, {6144, 2048}}));
    // However small a share is, its rank gets something.
    CHECK((runs(split(sketch(8, 8, 64, 512), {1000, 1}), &RankPart::kv_heads) == std::vector<Run>{{0, 7}, {7, 1}}));
}

TEST(columns_are_cut_at_the_borders_of_blocks) {
    // 11008 columns are 43 blocks of 256.
    const auto llama2 = split(sketch(32, 32, 128, 11008, BlockType::Q4_K), {1, 1});
    CHECK((runs(llama2, &RankPart::ff) == std::vector<Run>{{0, 5632}, {5632, 5376}}));
    // Heads of 64 columns: four make a block.
    const auto heads = split(sketch(12, 12, 64, 512, BlockType::Q6_K), {1, 1});
    CHECK((runs(heads, &RankPart::kv_heads) == std::vector<Run>{{0, 8}, {8, 4}}));
}

TEST(what_cannot_be_shared_is_refused_by_name) {
    const auto refused = [](const Sketch& model, std::vector<float> shares, const char* what) {
        try {
            static_cast<void>(split(model, shares));
        } catch (const dca::Error& error) {
            return error.status() == DCA_ERROR_UNSUPPORTED && std::string(error.what()).find(what) != std::string::npos;
        }
        return false;
    };
    CHECK(refused(sketch(2, 2, 64, 512, BlockType::Q4_K), {1, 1}, "number of key heads (2, cut in units of 4) cannot be shared by 2"));
    CHECK(refused(sketch(4, 4, 256, 256, BlockType::Q4_K), {1, 1}, "feed-forward width"));
    CHECK(refused(sketch(2, 1, 64, 512), {1, 1, 1}, "number of query heads of a key head"));
    Sketch whole = sketch(8, 8, 64, 512);
    whole.h.whole_width_qk_norm = true;
    CHECK(refused(whole, {1, 1}, "norms q and k over all heads together"));
}

TEST(rows_and_columns_of_a_tensor_are_views_of_it) {
    constexpr int64_t depth = 3, rows = 8, cols = 4 * 32;
    dca::Tensor whole;
    whole.type = BlockType::Q8_0;
    whole.depth = depth;
    whole.rows = rows;
    whole.cols = cols;
    const std::vector<std::byte> memory = numbered(static_cast<size_t>(whole.bytes()));
    whole.data = memory.data();
    CHECK(whole.contiguous());
    const int64_t block = whole.row_bytes() / 4;
    const dca::Tensor view = whole.row_slice(2, 5).column_slice(32, 64);
    CHECK(view.rows == 5);
    CHECK(view.cols == 64);
    CHECK(view.row_bytes() == 2 * block);
    CHECK(!view.contiguous());
    for (int64_t e = 0; e < depth; ++e) {
        const dca::Tensor matrix = view.expert(e);
        for (int64_t r = 0; r < 5; ++r) {
            const std::byte* expected = memory.data() + ((e * rows + 2 + r) * 4 + 1) * block;
            CHECK(std::memcmp(matrix.data + r * matrix.row_step(), expected, static_cast<size_t>(matrix.row_bytes())) == 0);
        }
    }
    CHECK(whole.expert(1).row_slice(2, 3).contiguous());
    CHECK(!whole.row_slice(2, 3).contiguous());
}

TEST(biases_of_what_is_summed_are_the_first_ranks) {
    Sketch model = sketch(4, 2, 8, 16);
    model.w.output.rows = 512;
    dca::LayerWeights& layer = model.w.layers[0];
    layer.output_bias = {1, 2, 3};
    layer.down_bias = {4, 5, 6};
    layer.sinks = {0, 1, 2, 3};
    for (int i = 0; i < 32; ++i) layer.q_bias.push_back(static_cast<float>(i));
    for (int i = 0; i < 16; ++i) layer.k_bias.push_back(static_cast<float>(i));
    const auto parts = split(model, {1, 1});
    const dca::Shard first = dca::shard_of(model.h, model.w, parts[0], true), second = dca::shard_of(model.h, model.w, parts[1], false);
    CHECK(first.weights.layers[0].output_bias == layer.output_bias);
    CHECK(second.weights.layers[0].output_bias.empty());
    CHECK(second.weights.layers[0].down_bias.empty());
    CHECK((second.weights.layers[0].sinks == std::vector<float>{2, 3}));
    CHECK(second.weights.layers[0].q_bias.front() == 16.0f);
    CHECK(second.weights.layers[0].q_bias.size() == 16u);
    CHECK(second.weights.layers[0].k_bias.front() == 8.0f);
    CHECK(second.hparams.n_heads == 2u);
    CHECK(second.hparams.n_kv_heads == 1u);
    CHECK(second.hparams.n_ff == 8u);
    CHECK(second.hparams.n_vocab == 256u);
}
