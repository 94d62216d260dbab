// Which pages have a slot of fine codes (core/engine/fresh_pages.h).
#include <vector>

#include "check.h"
#include "core/engine/fresh_pages.h"

using dca::FreshPages;

namespace {

/// A step that feeds `rows` tokens to each of some sequences.
struct Step {
    std::vector<std::vector<int32_t>> tokens;
    std::vector<dca::Slice> slices;

    Step(std::initializer_list<std::pair<std::span<const uint32_t>, std::pair<uint32_t, uint32_t>>> feeds) {
        for (const auto& [pages, range] : feeds) tokens.emplace_back(range.second - range.first);
        size_t n = 0;
        for (const auto& [pages, range] : feeds)
            slices.push_back({.pages = pages, .start = range.first, .tokens = tokens[n++], .wanted = 0});
    }
    dca::Batch batch() const { return {slices}; }
};

std::vector<uint32_t> prepared(FreshPages& pages, const Step& step) {
    std::vector<uint32_t> slots;
    pages.begin(step.batch(), [&](uint32_t slot) { slots.push_back(slot); }, [](uint32_t) {});
    return slots;
}

}  // namespace

TEST(a_step_has_a_slot_for_every_page_that_it_writes_to) {
    FreshPages pages(10, 4);
    const std::vector<uint32_t> table{7, 3, 9, 0};
    CHECK(prepared(pages, Step{{table, {100, 400}}}).size() == 4);
    for (const uint32_t page : table) CHECK(pages.of(page) != FreshPages::kNone);
    CHECK(pages.of(1) == FreshPages::kNone);
}

TEST(a_page_keeps_its_slot_until_it_is_full) {
    FreshPages pages(10, 2);
    const std::vector<uint32_t> one{4, 5, 6}, other{1};
    prepared(pages, Step{{one, {0, 100}}, {other, {0, 10}}});
    const uint32_t kept = pages.of(1);
    CHECK(prepared(pages, Step{{one, {100, 128}}}).empty());
    // The next page takes the full one's slot, not that of the sequence which pauses.
    CHECK(prepared(pages, Step{{one, {128, 130}}}).size() == 1);
    CHECK(pages.of(4) == FreshPages::kNone);
    CHECK(pages.of(1) == kept);
}

TEST(where_slots_are_short_who_paused_longest_loses_its_own) {
    FreshPages pages(10, 2);
    const std::vector<uint32_t> a{0}, b{1}, c{2};
    prepared(pages, Step{{a, {0, 5}}});
    prepared(pages, Step{{b, {0, 5}}});
    prepared(pages, Step{{c, {0, 5}}});
    CHECK(pages.of(0) == FreshPages::kNone);
    CHECK(pages.of(1) != FreshPages::kNone);
    CHECK(prepared(pages, Step{{a, {5, 6}}}).size() == 1);  // and gets an empty one when it goes on
}

TEST(what_was_written_from_elsewhere_has_no_slot) {
    FreshPages pages(10, 2);
    const std::vector<uint32_t> a{3};
    prepared(pages, Step{{a, {0, 5}}});
    pages.drop(3);
    CHECK(pages.of(3) == FreshPages::kNone);
    CHECK(prepared(pages, Step{{a, {5, 6}}}).size() == 1);
    FreshPages().drop(3);  // of a cache of another type
}

TEST(pages_are_opened_at_their_first_token_and_settled_when_full) {
    FreshPages pages(10, 6);
    const std::vector<uint32_t> a{3, 8, 5}, b{1};
    std::vector<uint32_t> opened, settled;
    for (const auto& [first, last] : {std::pair{0u, 100u}, {100u, 256u}, {256u, 300u}}) {
        const Step step{{a, {first, last}}, {b, {first % 128, first % 128 + 1}}};
        pages.begin(step.batch(), [](uint32_t) {}, [&](uint32_t page) { opened.push_back(page); });
        pages.end([&](FreshPages::Filled filled) {
            settled.push_back(filled.page);
            CHECK(filled.first == (filled.page == 3));
        });
    }
    CHECK(opened == std::vector<uint32_t>({3, 1, 8, 5, 1}));
    CHECK(settled.size() == 2 && settled[0] + settled[1] == 3 + 8);
}

TEST(slots_suffice_for_any_step) {
    CHECK(FreshPages::slots_for(1000, 8192, 128) >= 8192 / 128 + 2 * 128);
    CHECK(FreshPages::slots_for(5, 8192, 128) == 5);
    CHECK(FreshPages::slots_for(1000, 1, 1) >= 1);
}
