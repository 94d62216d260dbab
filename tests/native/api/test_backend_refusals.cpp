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

TEST(sparse_prefill_is_refused_by_one_line_where_a_backend_lacks_it) {
    const Plain backend;
    const dca::PrefillSpec sparse{.sparse = true, .alpha = 0.1f, .from = 4096};
    CHECK(backend.refuses({}, DCA_CACHE_F16).empty());
    CHECK(backend.refuses({}, DCA_CACHE_Q8).empty());
    const std::string why = backend.refuses(sparse, DCA_CACHE_F16);
    CHECK(why.find("on the CPU only so far") != std::string::npos);
    CHECK(why.find("the device cpu") != std::string::npos);
    CHECK(why.find('\n') == std::string::npos);
}

TEST(q4_is_refused_for_heads_of_other_than_whole_32s) {
    for (const uint32_t size : {32u, 64u, 96u, 128u, 256u}) CHECK(dca::refuses_q4(size).empty());
    for (const uint32_t size : {16u, 48u, 80u}) {
        CHECK(dca::refuses_q4(size) ==
              "a q4 cache takes head sizes that are multiples of 32, this model's is " + std::to_string(size) + "; use cache_type q8");
    }
}

TEST(a_cache_that_is_too_large_names_what_smaller_ones_would_hold) {
    const auto fitting = [](dca_cache_type type) { return type == DCA_CACHE_Q8 ? 20 : 35; };
    dca::EngineSpec spec;
    CHECK(dca::smaller_caches(spec, 64, fitting) == ", or 20 with cache_type q8, 35 with q4");
    CHECK(dca::smaller_caches(spec, 80, fitting) == ", or 20 with cache_type q8");
    spec.cache_type = DCA_CACHE_Q8;
    CHECK(dca::smaller_caches(spec, 64, fitting) == ", or 35 with cache_type q4");
    spec.cache_type = DCA_CACHE_Q4;
    CHECK(dca::smaller_caches(spec, 64, fitting).empty());
}
