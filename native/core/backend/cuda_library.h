// The CUDA backend lives in a library of its own, so that this one runs where there is no driver.
#pragma once

#include <memory>

#include "core/backend/backend.h"
#include "core/backend/device_name.h"

namespace dca {

/// The CUDA backend on the cards that `device` names, from libdca_cuda beside this library.
/// Throws a device error that says why it is not to be had.
std::unique_ptr<Backend> make_cuda_backend(const BackendSource& source, const DeviceName& device);

}  // namespace dca
