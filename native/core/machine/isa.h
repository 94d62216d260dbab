// Which of the instruction sets that kernels are compiled for runs here: the one place that decides,
// for block formats and for the CPU backend.
#pragma once

#include <string_view>

namespace dca {

enum class Isa { Generic, Avx2, Avx512, DotProd, I8mm };

/// Those of a machine stand in this order from the slowest on. On ARM, Generic has NEON.
inline constexpr Isa kAllIsas[] = {Isa::Generic, Isa::Avx2, Isa::Avx512, Isa::DotProd, Isa::I8mm};

/// As DCA_ISA spells it.
std::string_view isa_name(Isa isa) noexcept;

/// Avx2 stands for AVX2, FMA, F16C and BMI2; Avx512 for these and AVX-512 F, BW, DQ, VL and VNNI;
/// DotProd for ARM's dot products of bytes, I8mm for these and products of matrices of bytes: what
/// native/CMakeLists.txt lets the compiler use.
bool machine_has(Isa isa) noexcept;

/// The fastest that this machine has, or if `wanted` is not empty the one of that name.
/// Throws Error(DCA_ERROR_ARGUMENT) for a name that is unknown or that this machine has not.
Isa choose_isa(std::string_view wanted);

/// choose_isa of the environment's DCA_ISA as it is at the first call, for the whole process.
Isa chosen_isa();

}  // namespace dca
