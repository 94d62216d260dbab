// Runs a call with its n-th inner call failing, for every n until it gets through (faults.h).
#pragma once

#include <cstring>

#include "check.h"
#include "dca.h"
#include "faults/faults.h"

namespace fault {

/// What a failure of a kind may be called. (Memory comes from mmap too.)
inline bool fitting(Kind kind, dca_status status) noexcept {
    if (kind == system_call && status == DCA_ERROR_IO) return true;
    return status == (kind == device ? DCA_ERROR_DEVICE : DCA_ERROR_MEMORY);
}

/// `call` gives a status and, where that is not DCA_OK, must leave no memory, map or descriptor behind; buffers that a handle
/// keeps for its next call (`keeps`) are not counted. `check` looks at what there is now, makes the same call itself if it
/// failed, and puts things back as they were. Returns how many inner calls failed once.
template <class Call, class Check>
uint64_t every_failure(Kind kind, Then then, bool keeps, Call call, Check check) {
    for (uint64_t n = 1;; ++n) {
        const int failures = test::failures();
        const Held before = held();
        dca_status status = DCA_OK;
        bool struck = false;
        {
            const Armed armed(kind, n, then);
            status = call();
            struck = armed.struck();
        }
        if (status != DCA_OK) {
            CHECK(struck);
            CHECK(fitting(kind, status));
            CHECK(std::strlen(dca_last_error()) != 0);
            if (!keeps) {
                CHECK(held().allocations == before.allocations);
                CHECK(held().maps == before.maps);
                CHECK(held().descriptors == before.descriptors);
            }
        }
        check(status);
        if (test::failures() != failures) {
            std::fprintf(stderr, "at inner call %llu of kind %d (status %d: %s)\n", static_cast<unsigned long long>(n), kind, status,
                         dca_last_error());
            return n;
        }
        if (!struck) return n - 1;
    }
}

/// Every kind by itself, and both ways to go on.
template <class Call, class Check>
void every_failure_of_any_kind(bool keeps, Call call, Check check) {
    for (const Kind kind : {allocation, system_call, device}) {
        for (const Then then : {Then::recovers, Then::stays}) every_failure(kind, then, keeps, call, check);
    }
}

/// What is made after this object leaves nothing when it goes.
struct NothingStays {
    ~NothingStays() {
        CHECK(held().allocations == before.allocations);
        CHECK(held().maps == before.maps);
        CHECK(held().descriptors == before.descriptors);
    }
    const Held before = held();
};

}  // namespace fault
