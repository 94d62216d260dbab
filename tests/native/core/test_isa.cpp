// The one choice of an instruction set, and that block formats and the CPU's kernels follow it.
// `make native-test` runs these once more under DCA_ISA=generic.
#include <cstdlib>
#include <string>

#include "check.h"
#include "core/blocks/kernels.h"
#include "core/error.h"
#include "core/machine/isa.h"

TEST(isa_by_default_is_the_fastest_of_the_machine) {
    const dca::Isa chosen = dca::choose_isa("");
    CHECK(dca::machine_has(chosen));
    for (const dca::Isa isa : dca::kAllIsas) CHECK(!dca::machine_has(isa) || isa <= chosen);
}

TEST(isa_by_name_is_that_one_or_an_error) {
    for (const dca::Isa isa : dca::kAllIsas) {
        const std::string name(dca::isa_name(isa));
        if (dca::machine_has(isa)) {
            CHECK(dca::choose_isa(name) == isa);
        } else {
            CHECK_ERROR(dca::choose_isa(name), DCA_ERROR_ARGUMENT);
        }
    }
    for (const char* wrong : {"mmx", "AVX2", "avx2 ", "avx", "default"}) CHECK_ERROR(dca::choose_isa(wrong), DCA_ERROR_ARGUMENT);
}

TEST(isa_of_the_environment_is_the_one_that_block_formats_use) {
    const char* wanted = std::getenv("DCA_ISA");
    CHECK(dca::chosen_isa() == dca::choose_isa(wanted == nullptr ? "" : wanted));
    for (const auto type : {dca::BlockType::F16, dca::BlockType::Q4_1, dca::BlockType::Q6_K}) {
        const dca::BlockKernels used = dca::block_kernels(type);
        CHECK(used.decode == dca::block_kernels(type, dca::chosen_isa()).decode);
        CHECK(used.encode == dca::block_kernels(type, dca::chosen_isa()).encode);
#if defined(__x86_64__)  // ARM's block formats are compiled once
        for (const dca::Isa isa : dca::kAllIsas) {
            if (!dca::machine_has(isa) || isa == dca::chosen_isa()) continue;
            CHECK(used.decode != dca::block_kernels(type, isa).decode);
            CHECK(used.encode != dca::block_kernels(type, isa).encode);
        }
#endif
    }
}
