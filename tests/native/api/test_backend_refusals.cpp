// What a backend does not run that says nothing of it: a CUDA device, so far.
#include "check.h"
#include "core/backend/backend.h"

namespace {

class Plain final : public dca::Backend {
public:
    std::string description() const override { return "plain"; }
    Parts make_engine(dca::EngineSpec) override { return {}; }
};

}  // namespace

TEST(sparse_prefill_and_q4_are_refused_by_one_line_where_a_backend_lacks_them) {
    const Plain backend;
    const dca::PrefillSpec sparse{.sparse = true, .alpha = 0.1f, .from = 4096};
    CHECK(backend.refuses({}, DCA_CACHE_F16).empty());
    CHECK(backend.refuses({}, DCA_CACHE_Q8).empty());
    for (const std::string& why : {backend.refuses(sparse, DCA_CACHE_F16), backend.refuses({}, DCA_CACHE_Q4)}) {
        CHECK(why.find("on the CPU only so far") != std::string::npos || why.find("for the CPU only so far") != std::string::npos);
        CHECK(why.find("the device cpu") != std::string::npos);
        CHECK(why.find('\n') == std::string::npos);
    }
}
