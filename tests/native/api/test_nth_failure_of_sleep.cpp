// Every allocation, system call and device call of letting sequences sleep and pages be parked fails once: a status with a
// message, everything as it was, and the next call does what was asked.
#include <vector>

#include "faults/nth_failure.h"
#include "faults/small_model.h"

using fault::every_failure_of_any_kind;
using fault::NothingStays;

namespace {

constexpr uint32_t kPage = 128;
const std::vector<int32_t> text = test::some_tokens(2 * kPage + 9);
constexpr uint32_t slots[] = {1, 0};

/// An engine of eight pages, a sequence that takes three of them, and an empty one.
struct Open {
    explicit Open(test::SmallModel& small) {
        const dca_engine_options options = test::engine_options(8 * kPage);
        CHECK(dca_engine_create(small.model, &options, &engine) == DCA_OK);
        CHECK(dca_sequence_create(engine, &full) == DCA_OK);
        CHECK(dca_sequence_create(engine, &empty) == DCA_OK);
        const dca_feed feed{full, text.data(), text.size(), DCA_LOGITS_NONE, nullptr, 0};
        CHECK(dca_engine_eval(engine, &feed, 1) == DCA_OK);
    }
    ~Open() {
        dca_sequence_free(empty);
        dca_sequence_free(full);
        CHECK(used() == 0u);
        dca_engine_free(engine);
    }
    uint32_t used() const {
        dca_engine_info info{};
        info.size = sizeof info;
        CHECK(dca_engine_get_info(engine, &info) == DCA_OK);
        CHECK(info.tokens_leaving == 0u);
        return info.tokens_used / kPage;
    }
    /// After one more token, which is forgotten again.
    std::vector<float> logits(dca_sequence* sequence) const {
        std::vector<float> logits(fuzz::n_vocab);
        const uint32_t length = dca_sequence_length(sequence);
        const dca_feed feed{sequence, text.data(), 1, DCA_LOGITS_LAST, logits.data(), logits.size()};
        CHECK(dca_engine_eval(engine, &feed, 1) == DCA_OK);
        CHECK(dca_sequence_truncate(sequence, length) == DCA_OK);
        return logits;
    }

    dca_engine* engine = nullptr;
    dca_sequence *full = nullptr, *empty = nullptr;
};

}  // namespace

TEST(nth_failure_of_sleeping_and_waking) {
    test::SmallModel small(test::llama_with_scheme, test::f16);
    const NothingStays after;
    const Open open(small);
    const std::vector<float> expected = open.logits(open.full);
    const auto sleep = [&] { return dca_sequence_sleep(open.full); };
    const auto wake = [&] { return dca_sequence_wake(open.full); };
    every_failure_of_any_kind(true, sleep, [&](dca_status status) {
        CHECK(dca_sequence_asleep(open.full) == (status == DCA_OK ? 1 : 0));
        if (status != DCA_OK) CHECK(open.used() == 3u);
        CHECK(sleep() == DCA_OK);
        CHECK(open.used() == 0u);
        CHECK(wake() == DCA_OK);
        CHECK(open.logits(open.full) == expected);
    });
    CHECK(sleep() == DCA_OK);
    every_failure_of_any_kind(true, wake, [&](dca_status status) {
        CHECK(dca_sequence_asleep(open.full) == (status == DCA_OK ? 0 : 1));
        if (status != DCA_OK) CHECK(open.used() == 0u);
        CHECK(wake() == DCA_OK);
        CHECK(open.logits(open.full) == expected);
        CHECK(sleep() == DCA_OK);
    });
}

TEST(nth_failure_of_parking) {
    test::SmallModel small(test::llama_with_scheme, test::f16);
    const NothingStays after;
    const Open open(small);
    uint32_t there = 0;
    every_failure_of_any_kind(
        true, [&] { return dca_engine_add_slots(open.engine, 2, nullptr); },
        [&](dca_status status) {
            const uint32_t before = there;
            CHECK(dca_engine_add_slots(open.engine, 0, &there) == DCA_OK);
            CHECK(there == before + (status == DCA_OK ? 2 : 0));
        });
    const auto park = [&] { return dca_sequence_park_pages(open.full, 0, slots, 2); };
    const auto unpark = [&] { return dca_sequence_unpark_pages(open.empty, text.data(), 2 * kPage, slots, 2); };
    every_failure_of_any_kind(true, park, [&](dca_status status) {
        CHECK(open.used() == 3u);
        if (status != DCA_OK) CHECK(park() == DCA_OK);
    });
    CHECK(dca_sequence_truncate(open.full, 2 * kPage) == DCA_OK);
    const std::vector<float> expected = open.logits(open.full);
    every_failure_of_any_kind(true, unpark, [&](dca_status status) {
        if (status != DCA_OK) {
            CHECK(dca_sequence_length(open.empty) == 0u);
            CHECK(open.used() == 2u);
            CHECK(unpark() == DCA_OK);
        }
        CHECK(dca_sequence_in_place(open.empty) == 1);
        CHECK(open.logits(open.empty) == expected);
        CHECK(dca_sequence_truncate(open.empty, 0) == DCA_OK);
    });
}
