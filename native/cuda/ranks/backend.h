// One model on several cards of one host.
#pragma once

#include <memory>

#include "core/backend/backend.h"
#include "core/backend/device_name.h"

namespace dca::cuda {

/// On one card. Throws a device error where there is no such card, an unsupported one for a model that it does not run.
std::unique_ptr<Backend> make_card_backend(const BackendSource& source, int ordinal);

/// On all that the name says, each of which is a rank (core/ranks/group.h). Throws a device error as well where they are not
/// of one kind and get equal shares.
std::unique_ptr<Backend> make_cards_backend(const BackendSource& source, const DeviceName& device);

}  // namespace dca::cuda
