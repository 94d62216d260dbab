#include "cuda/ranks/backend.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/ranks/group.h"
#include "core/error.h"
#include "cuda/device/device.h"
#include "cuda/ranks/exchange.h"

namespace dca::cuda {

namespace {

/// The card's name in a description: "cuda:0 (NVIDIA ...)".
std::string name_of(const Device& device) {
    const size_t begin = device.description.find('(') + 1;
    return device.description.substr(begin, device.description.size() - begin - 1);
}

/// All cards are there, and alike unless it is said how much each gets: the slowest would hold up the others.
std::string open_alike(const DeviceName& device) {
    const bool weighted = std::ranges::adjacent_find(device.shares, std::not_equal_to()) != device.shares.end();
    std::string name;
    for (const int card : device.cards) {
        const std::string of_this = name_of(open_device(card));
        if (name.empty()) name = of_this;
        if (of_this != name && !weighted) {
            fail(DCA_ERROR_DEVICE, "cuda:", device.cards.front(), " is a ", name, ", cuda:", card, " is a ", of_this,
                 "; say how much each gets, as cuda:0=3,1=1, or take cards of one kind");
        }
    }
    return name;
}

/// Ranks on one card sum between their kernels: one that waits could keep from the card what it waits for, such as another
/// rank's kernel that the driver loads late. DCA_CARDS_SUM=nccl, streams or kernels asks for another way than what is best.
SumWay sum_way(const DeviceName& device) {
    const char* set = std::getenv("DCA_CARDS_SUM");
    const std::string_view asked = set == nullptr ? "" : set;
    if (device.one_card_twice()) return asked == "kernels" ? SumWay::Kernels : SumWay::Streams;
    if (asked == "nccl" || !let_peers_reach(device.cards)) return SumWay::Nccl;
    return asked == "streams" ? SumWay::Streams : SumWay::Kernels;
}

std::string description_of(const DeviceName& device, const std::string& name) {
    std::string text = "cuda:";
    text.append(std::to_string(device.cards.front()));
    if (device.one_card_twice()) {
        text.append("/").append(std::to_string(device.ranks()));
    } else {
        for (size_t rank = 1; rank < device.cards.size(); ++rank) text.append(",").append(std::to_string(device.cards[rank]));
    }
    if (device.by_layers) text.append("/layers");
    return text.append(" (").append(std::to_string(device.ranks())).append(" x ").append(name).append(")");
}

}  // namespace

std::unique_ptr<Backend> make_cards_backend(const BackendSource& source, const DeviceName& device) {
    const std::string name = open_alike(device);
    const SumWay way = sum_way(device);
    const auto make_rank = [cards = device.cards](uint32_t rank, const BackendSource& own) { return make_card_backend(own, cards[rank]); };
    const auto make_exchange = [cards = device.cards, way](std::vector<uint32_t> vocabulary) -> std::unique_ptr<Exchange> {
        return std::make_unique<CudaExchange>(std::move(vocabulary), cards, way);
    };
    const auto describe = [text = description_of(device, name)](const std::string&) { return text; };
    GroupMachine machine{make_rank, make_exchange, device.shares, describe};
    return device.by_layers ? make_chain_backend(source, std::move(machine)) : make_group_backend(source, std::move(machine));
}

}  // namespace dca::cuda
