// Pages of a cache: taken, shared, given back.
#include "core/engine/page_pool.h"

#include <set>

#include "check.h"

using dca::PagePool;

TEST(page_pool_hands_out_every_page_once_in_ascending_order) {
    PagePool pool(5);
    for (uint32_t page = 0; page < 5; ++page) CHECK(pool.take() == page);
    CHECK(pool.free() == 0u);
}

TEST(page_pool_takes_back_what_nobody_holds) {
    PagePool pool(2);
    const uint32_t page = pool.take();
    pool.retain(page);
    CHECK(pool.shared(page));
    pool.release(page);
    CHECK(!pool.shared(page));
    CHECK(pool.free() == 1u);
    pool.release(page);
    CHECK(pool.free() == 2u);
}

TEST(page_pool_counts_pages_of_tokens) {
    CHECK(dca::pages_for(0) == 0u);
    CHECK(dca::pages_for(1) == 1u);
    CHECK(dca::pages_for(128) == 1u);
    CHECK(dca::pages_for(129) == 2u);
}
