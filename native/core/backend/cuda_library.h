// The CUDA backend lives in a library of its own, so that this one runs where there is no driver.
#pragma once

#include <memory>

#include "core/backend/backend.h"

namespace dca {

/// The CUDA backend on card `ordinal`, from libdca_cuda beside this library.
/// Throws a device error that says why it is not to be had.
std::unique_ptr<Backend> make_cuda_backend(const BackendSource& source, int ordinal);

}  // namespace dca
