// RoPE's frequencies against the formulas of the papers that define each scaling.
#include "core/rope.h"

#include <cmath>

#include "check.h"
#include "core/error.h"
#include "core/positions/scheme.h"

namespace {

constexpr uint32_t d = 64, context = 4096;
constexpr double base = 10000.0;

dca::Hparams hparams() {
    dca::Hparams h;
    h.rotary_dim = d;
    h.rope_base = static_cast<float>(base);
    h.context_length = h.rope_original_context = context;
    return h;
}

dca::RopeFrequencies frequencies(const dca::Hparams& h, const dca::Weights& weights = {}, uint32_t tokens = context) {
    return dca::plan_rope_table(h, weights, dca::make_scheme({}, DCA_ATTENTION_PLAIN), tokens).frequencies;
}

double plain(uint32_t j) { return std::pow(base, -2.0 * j / d); }

void near(double value, double expected) { CHECK(std::abs(value - expected) <= 1e-6 * expected); }

}  // namespace

TEST(rope_turns_dimension_2j_by_base_to_the_minus_2j_over_d) {
    const dca::RopeFrequencies f = frequencies(hparams());
    for (uint32_t j = 0; j < d / 2; ++j) near(f.radians[j], plain(j));
    CHECK(f.magnitude == 1.0);
}

TEST(rope_linear_divides_every_frequency) {
    const dca::RopeFrequencies f = frequencies(dca::with_rope(hparams(), DCA_ROPE_LINEAR, 4.0f, context));
    for (uint32_t j = 0; j < d / 2; ++j) near(f.radians[j], plain(j) / 4.0);
}

TEST(rope_ntk_keeps_the_fastest_and_stretches_the_slowest_by_the_factor) {
    const dca::RopeFrequencies f = frequencies(dca::with_rope(hparams(), DCA_ROPE_NTK, 4.0f, context));
    near(f.radians[0], 1.0);
    near(f.radians[d / 2 - 1], plain(d / 2 - 1) / 4.0);
}

TEST(rope_dynamic_ntk_stretches_by_how_far_the_positions_are_beyond_the_trained_context) {
    const auto slowest = [](uint32_t positions) {
        return frequencies(dca::with_rope(hparams(), DCA_ROPE_DYNAMIC, 2.0f, positions)).radians[d / 2 - 1];
    };
    near(slowest(100), plain(d / 2 - 1));
    near(slowest(context), plain(d / 2 - 1));
    near(slowest(3 * context), plain(d / 2 - 1) / 5.0);  // 2 * 3 - (2 - 1)
}

TEST(rope_yarn_keeps_what_turns_often_and_interpolates_what_does_not) {
    const dca::RopeFrequencies f = frequencies(dca::with_rope(hparams(), DCA_ROPE_YARN, 4.0f, context));
    near(f.magnitude, 0.1 * std::log(4.0) + 1.0);
    for (uint32_t j = 0; j < d / 2; ++j) {
        const double turns = context * plain(j) / (2 * 3.14159265358979);
        // Between 32 turns and one lies a ramp; its ends are whole dimensions, so those next to them are left out.
        if (turns > 32 * 1.4) near(f.radians[j], plain(j));
        if (turns < 1 / 1.4) near(f.radians[j], plain(j) / 4.0);
        CHECK(f.radians[j] <= plain(j) * 1.000001);
        CHECK(f.radians[j] >= plain(j) / 4.000001);
    }
}

TEST(rope_factors_divide_and_long_texts_take_the_long_ones) {
    dca::Hparams h = hparams();
    h.rope_scaling = dca::RopeScaling::LongRope;
    dca::Weights weights;
    weights.rope_factors.assign(d / 2, 2.0f);
    weights.rope_factors_long.assign(d / 2, 8.0f);
    near(frequencies(h, weights).radians[3], plain(3) / 2.0);
    near(frequencies(h, weights, context + 1).radians[3], plain(3) / 8.0);
    CHECK_ERROR(dca::with_rope(h, DCA_ROPE_LINEAR, 2.0f, context), DCA_ERROR_UNSUPPORTED);
    for (const float bad : {0.0f, -1.0f, NAN}) {
        weights.rope_factors[5] = bad;
        CHECK_ERROR(frequencies(h, weights), DCA_ERROR_FORMAT);
    }
}

TEST(rope_is_refused_where_it_makes_no_sense) {
    for (const int32_t kind : {-1, 5}) CHECK_ERROR(dca::with_rope(hparams(), kind, 2.0f, context), DCA_ERROR_ARGUMENT);
    for (const float factor : {0.5f, -1.0f, INFINITY, NAN})
        CHECK_ERROR(dca::with_rope(hparams(), DCA_ROPE_YARN, factor, context), DCA_ERROR_ARGUMENT);
    dca::Hparams narrow = hparams();
    narrow.rotary_dim = 2;
    CHECK_ERROR(dca::with_rope(narrow, DCA_ROPE_NTK, 2.0f, context), DCA_ERROR_UNSUPPORTED);
}
