// Finding and opening a card.
#pragma once

#include <string>

#include "cuda/device/card.h"

namespace dca::cuda {

struct Device {
    int ordinal;
    Card card;
    std::string description;  // "cuda:0 (NVIDIA H100 80GB HBM3)"
};

/// Makes the card the calling thread's. Throws a device error that says what is missing: the
/// driver, the card, or a card new enough for this build.
Device open_device(int ordinal);

}  // namespace dca::cuda
