// Several ranks on the CPU, each with its share of the threads: what cards do that share a model, where there are none.
#include <algorithm>
#include <string>
#include <utility>

#include "core/ranks/group.h"
#include "core/ranks/host_exchange.h"
#include "core/machine/parallel.h"

namespace dca {

std::unique_ptr<Backend> make_cpu_ranks(const BackendSource& source, const DeviceName& device) {
    const uint32_t ranks = device.ranks();
    const bool by_layers = device.by_layers;  // one after the other
    const auto make_rank = [ranks, by_layers](uint32_t, const BackendSource& part) {
        BackendSource own = part;
        if (!by_layers) own.threads = std::max((part.threads > 0 ? part.threads : usable_cores()) / static_cast<int>(ranks), 1);
        return make_cpu_backend(own);
    };
    const auto make_exchange = [](std::vector<uint32_t> vocabulary) -> std::unique_ptr<Exchange> {
        return std::make_unique<HostExchange>(std::move(vocabulary));
    };
    const auto describe = [ranks, by_layers](const std::string& first) {
        return "cpu/" + std::to_string(ranks) + (by_layers ? "/layers" : "") + first.substr(first.find(' '));
    };
    GroupMachine machine{make_rank, make_exchange, device.shares, describe};
    return by_layers ? make_chain_backend(source, std::move(machine)) : make_group_backend(source, std::move(machine));
}

}  // namespace dca
