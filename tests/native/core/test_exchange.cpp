// Where ranks meet and agree.
#include <atomic>
#include <thread>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "core/ranks/host_exchange.h"
#include "core/ranks/threads.h"

namespace {

constexpr uint32_t kRanks = 3, kRounds = 300;

std::vector<uint32_t> vocabulary() { return {0, 8, 16, 24}; }

}  // namespace

TEST(ranks_agree_where_all_say_yes) {
    dca::HostExchange exchange(vocabulary());
    dca::RankThreads threads(kRanks);
    std::atomic<uint32_t> wrong{0};
    threads.run([&](uint32_t rank) {
        for (uint32_t round = 0; round < kRounds; ++round) {
            // One says no in every round but the fourth ones, one after the other.
            const bool yes = round % 4 == 3 || round % 4 != rank;
            if (exchange.agree(rank, yes) != (round % 4 == 3)) ++wrong;
        }
    });
    CHECK(wrong == 0);
}

TEST(ranks_that_wait_for_one_that_failed_give_up_and_agree_again_later) {
    dca::HostExchange exchange(vocabulary());
    dca::RankThreads threads(kRanks);
    std::string said;
    try {
        threads.run(
            [&](uint32_t rank) {
                static_cast<void>(exchange.agree(rank, true));
                if (rank == 1) dca::fail(DCA_ERROR_DEVICE, "this one");
                static_cast<void>(exchange.agree(rank, true));
            },
            [&] { exchange.abort(); });
    } catch (const dca::Error& error) {
        said = error.what();
    }
    CHECK(said == "this one");
    exchange.reset();
    std::atomic<uint32_t> agreed{0};
    threads.run([&](uint32_t rank) { agreed += exchange.agree(rank, true) && !exchange.agree(rank, rank != 2) ? 1 : 0; });
    CHECK(agreed == kRanks);
}
