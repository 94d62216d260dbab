// The names of devices: "cpu", "auto", "cuda", "cuda:1", several cards of one host "cuda:0,1".
//
// Several cards share every matrix, or with "/layers" each has some of the layers; "cuda:0=3,1" gives the first three times
// as much. For tests, which have one card or none, "/N" makes N ranks on one device share a model as N cards would: "cpu/2",
// "cuda:0/2/layers", unequally "cpu/2=3,1".
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace dca {

struct DeviceName {
    enum class Kind { Cpu, Cuda, Auto };
    Kind kind = Kind::Cpu;
    std::vector<int> cards = {};         // of Cuda, one a rank
    std::vector<float> shares = {1.0f};  // of the model, one a rank; only their proportions count
    bool by_layers = false;

    uint32_t ranks() const noexcept { return static_cast<uint32_t>(shares.size()); }
    bool one_card_twice() const noexcept { return kind == Kind::Cuda && ranks() > 1 && cards[0] == cards[1]; }
};

constexpr uint32_t kMostRanks = 16;

/// Throws an argument error that says what is wrong with the name.
DeviceName parse_device(std::string_view name);

}  // namespace dca
