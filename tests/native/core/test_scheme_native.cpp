// Dual Chunk Attention's positions against the figures of the paper (arXiv 2402.17463) and the NumPy scheme.
#include "core/positions/scheme.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "core/positions/key_ranges.h"
#include "scheme_matrices.h"

namespace {

dca::Scheme scheme(uint32_t s, uint32_t w, uint32_t c, int32_t attention = DCA_ATTENTION_AUTO) {
    return dca::make_scheme({s, w, c, 0.0f, 0}, attention);
}

dca::Scheme border(int32_t attention, uint32_t window, uint32_t beyond) { return dca::make_border_scheme({window, beyond}, attention); }

/// Calls visit(key, relative position) for every key that query i sees, read off the ranges from the farthest on.
template <class Visit>
void for_seen_keys(const dca::Scheme& scheme, uint32_t i, Visit visit) {
    const uint32_t chunk = i / scheme.chunk_size;
    for (uint32_t index = dca::range_count(scheme, chunk, i + 1); index-- > 0;) {
        const auto range = static_cast<dca::Range>(index);
        const dca::KeyRange keys = dca::key_range(scheme, chunk, range, i + 1);
        const uint32_t position = scheme.query_position(range, i % scheme.chunk_size);
        for (uint32_t j = dca::first_of_range(scheme, range, keys, i); j < keys.end; ++j) visit(j, position - scheme.key_position(j));
    }
}

/// The relative position of every key that query i sees.
std::vector<uint32_t> relative_row(const dca::Scheme& scheme, uint32_t i) {
    std::vector<uint32_t> row;
    for_seen_keys(scheme, i, [&](uint32_t, uint32_t distance) { row.push_back(distance); });
    return row;
}

using Row = std::vector<uint32_t>;

}  // namespace

TEST(scheme_gives_the_papers_figure_2) {
    const dca::Scheme figure = scheme(6, 4, 10);
    const std::array<uint32_t, 6> successive{6, 7, 8, 9, 9, 9};
    for (uint32_t i = 0; i < 12; ++i) {
        const uint32_t r = i % 6;
        CHECK(figure.key_position(i) == r);
        CHECK(figure.query_position(dca::Range::Intra, r) == r);
        CHECK(figure.query_position(dca::Range::Successive, r) == successive[r]);
        CHECK(figure.query_position(dca::Range::Inter, r) == 9);
    }
    CHECK((relative_row(figure, 6) == Row{6, 5, 4, 3, 2, 1, 0}));
}

TEST(scheme_gives_the_papers_figure_8) {
    const dca::Scheme figure = scheme(4, 3, 8);
    for (uint32_t r = 0; r < 4; ++r) {
        CHECK(figure.query_position(dca::Range::Successive, r) == 4 + r);
        CHECK(figure.query_position(dca::Range::Inter, r) == 7);
    }
    uint32_t largest = 0;
    for (uint32_t i = 0; i < 12; ++i) {
        for (const uint32_t distance : relative_row(figure, i)) largest = std::max(largest, distance);
    }
    CHECK(largest == 7);
}

TEST(positions_are_the_ordinary_ones_in_the_first_chunk) {
    const dca::Scheme figure = scheme(6, 4, 10);
    for (uint32_t i = 0; i < 6; ++i) {
        const Row row = relative_row(figure, i);
        CHECK(row.size() == i + 1);
        for (uint32_t j = 0; j <= i; ++j) CHECK(row[j] == i - j);
    }
}

TEST(plain_attention_is_one_endless_chunk) {
    const dca::Scheme plain = scheme(6, 4, 10, DCA_ATTENTION_PLAIN);
    CHECK(plain.plain());
    CHECK((relative_row(plain, 8) == Row{8, 7, 6, 5, 4, 3, 2, 1, 0}));
    CHECK(plain.position_count(100) == 100);
}

TEST(ablations_drop_what_they_say) {
    CHECK(relative_row(scheme(4, 2, 8, DCA_ATTENTION_INTRA), 9).size() == 2);
    const auto row = relative_row(scheme(4, 2, 8, DCA_ATTENTION_INTRA_INTER), 9);
    CHECK(row[4] == 7 && row[0] == 7 && row[9] == 0);
}

TEST(logit_factor_grows_past_its_length_only) {
    const dca::Scheme sharpened = dca::make_scheme({4, 2, 8, 0.1f, 100}, DCA_ATTENTION_AUTO);
    CHECK(sharpened.logit_factor(99) == 1.0f);
    const double m = 0.1 * std::log(8.0) + 1.0;
    CHECK(std::fabs(sharpened.logit_factor(799) - m * m) < 1e-6);
}

TEST(schemes_that_cannot_be_are_refused) {
    CHECK_ERROR(scheme(8, 0, 8), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(scheme(4, 5, 8), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(scheme(0, 0, 8, DCA_ATTENTION_DUAL_CHUNK), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(scheme(4, 2, 8, 17), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(scheme(1u << 30, 0, (1u << 30) + 1), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(dca::make_scheme({4, 2, 8, 0.1f, 0}, DCA_ATTENTION_AUTO), DCA_ERROR_ARGUMENT);
}

TEST(attentions_agree_in_the_smaller_first_chunk) {
    const dca::Scheme plain = scheme(6, 4, 10, DCA_ATTENTION_PLAIN);
    CHECK(dca::common_prefix(plain, scheme(6, 4, 10)) == 6);
    CHECK(dca::common_prefix(scheme(6, 4, 10), scheme(4, 3, 8)) == 4);
    CHECK(dca::common_prefix(scheme(6, 4, 10), scheme(6, 2, 10)) == 6);
    CHECK(dca::common_prefix(scheme(6, 4, 10, DCA_ATTENTION_INTRA), scheme(6, 4, 10)) == 6);
}

TEST(attentions_with_a_border_agree_with_the_others_within_their_window) {
    const dca::Scheme string = border(DCA_ATTENTION_STRING, 8, 3);
    CHECK(!string.plain() && string.moves());
    CHECK(dca::common_prefix(string, scheme(6, 4, 10, DCA_ATTENTION_PLAIN)) == 8);
    CHECK(dca::common_prefix(string, scheme(6, 4, 10)) == 6);
    CHECK(dca::common_prefix(string, border(DCA_ATTENTION_STRING, 8, 2)) == 8);
    CHECK(dca::common_prefix(string, border(DCA_ATTENTION_STREAMING, 5, 3)) == 5);
    CHECK(dca::common_prefix(string, border(DCA_ATTENTION_STRING, 8, 3)) == dca::Scheme::kEndless);
}

TEST(borders_that_cannot_be_are_refused) {
    CHECK_ERROR(border(DCA_ATTENTION_STRING, 0, 0), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(border(DCA_ATTENTION_STRING, 4, 5), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(border(DCA_ATTENTION_STREAMING, (1u << 30) + 1, 4), DCA_ERROR_ARGUMENT);
    CHECK_ERROR(border(DCA_ATTENTION_LM_INFINITE, 4, (1u << 30) + 1), DCA_ERROR_ARGUMENT);
}

TEST(equal_attentions_agree_everywhere) {
    CHECK(dca::common_prefix(scheme(6, 4, 10), scheme(6, 4, 10)) == dca::Scheme::kEndless);
    CHECK(dca::common_prefix(scheme(6, 0, 10), scheme(6, 4, 10, DCA_ATTENTION_INTRA_INTER)) == dca::Scheme::kEndless);
}

TEST(a_logit_factor_ends_the_agreement_where_it_sets_in) {
    const dca::Scheme plain = scheme(60, 20, 100, DCA_ATTENTION_PLAIN);
    const dca::Scheme sharpened = dca::make_scheme({60, 20, 100, 0.1f, 30}, DCA_ATTENTION_AUTO);
    CHECK(dca::common_prefix(plain, sharpened) == 30);
    CHECK(sharpened.logit_factor(29) == 1.0f && sharpened.logit_factor(30) > 1.0f);
    CHECK(dca::common_prefix(sharpened, dca::make_scheme({50, 20, 100, 0.1f, 30}, DCA_ATTENTION_AUTO)) == 50);
    CHECK(dca::common_prefix(sharpened, dca::make_scheme({60, 20, 100, 0.2f, 200}, DCA_ATTENTION_AUTO)) == 30);
}

TEST(rows_of_a_rotation_table_are_the_positions_that_are_used) {
    for (const dca::Scheme& whole : {scheme(6, 4, 10), scheme(6, 2, 16), scheme(5, 0, 9), scheme(4, 3, 30, DCA_ATTENTION_INTRA),
                                     scheme(4, 3, 30, DCA_ATTENTION_INTRA_INTER)}) {
        for (uint32_t n = 1; n < 40; ++n) {
            const dca::Scheme rows = whole.in_rows(n);
            const uint32_t count = whole.table_rows(n);
            const auto position_of_row = [&](uint32_t row) {
                return row + 1 == count && n > whole.chunk_size && !whole.intra_only ? whole.pretraining_length - 1 : row;
            };
            for (uint32_t i = 0; i < n; ++i) {
                for (uint32_t range = 0; range < dca::range_count(whole, i / whole.chunk_size, i + 1); ++range) {
                    const uint32_t r = i % whole.chunk_size;
                    const uint32_t row = rows.query_position(static_cast<dca::Range>(range), r);
                    CHECK(row < count);
                    CHECK(position_of_row(row) == whole.query_position(static_cast<dca::Range>(range), r));
                }
            }
        }
    }
}

TEST(a_rotation_table_is_no_longer_than_the_sequence_and_one) {
    CHECK(scheme(1u << 20, 1u << 10, 1u << 27).table_rows(512) == 512);
    CHECK(scheme(100, 1u << 20, 1u << 27).table_rows(512) == 513);
    CHECK(scheme(4, 2, 8, DCA_ATTENTION_PLAIN).table_rows(512) == 512);
}

TEST(scheme_gives_the_numpy_schemes_matrices) {
    for (const SchemeMatrix& matrix : kSchemeMatrices) {
        const dca::Scheme native = scheme(matrix.chunk_size, matrix.local_window, matrix.pretraining_length);
        const char* distance = matrix.distances;
        for (uint32_t i = 0; i < kMatrixTokens; ++i)
            for (const uint32_t found : relative_row(native, i)) CHECK(found == static_cast<uint32_t>(*distance++ - 'A'));
        CHECK(*distance == '\0');
    }
}

TEST(borders_that_move_give_the_numpy_matrices) {
    for (const BorderMatrix& matrix : kBorderMatrices) {
        const dca::Scheme native = border(matrix.attention, matrix.window, matrix.beyond);
        const char* row = matrix.distances;
        for (uint32_t i = 0; i < kMatrixTokens; row += ++i) {
            std::string found(i + 1, '.');
            for_seen_keys(native, i, [&](uint32_t j, uint32_t distance) {
                CHECK(j <= i && found[j] == '.');
                found[j] = static_cast<char>('A' + distance);
            });
            CHECK(found == std::string_view(row, i + 1));
        }
        CHECK(*row == '\0');
    }
}
