// Ranks as one backend: what is said where one of them cannot.
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "core/error.h"
#include "core/ranks/group.h"
#include "core/ranks/host_exchange.h"

namespace {

/// A machine that has memory for some tokens, and for no engine.
class Full final : public dca::Backend {
public:
    explicit Full(uint64_t tokens) : tokens_(tokens) {}
    std::string description() const override { return "full"; }
    Parts make_engine(dca::EngineSpec) override { throw dca::RoomError(tokens_, dca::message_from("room for ", tokens_, " tokens")); }

private:
    uint64_t tokens_;
};

}  // namespace

TEST(ranks_have_room_for_what_the_smallest_has_room_for) {
    static const std::byte somewhere[16] = {};
    dca::Hparams h;
    h.n_heads = h.n_kv_heads = 8;
    h.head_dim = 64;
    h.n_ff = h.n_vocab = 512;
    dca::Weights w;
    w.layers.resize(1);
    for (dca::Tensor* matrix : {&w.layers[0].output, &w.layers[0].down}) {
        matrix->type = dca::BlockType::F16;
        matrix->data = somewhere;
    }
    const std::vector<uint64_t> rooms{4096, 128, 256};
    dca::GroupMachine machine;
    machine.make_rank = [&](uint32_t rank, const dca::BackendSource&) { return std::make_unique<Full>(rooms[rank]); };
    machine.make_exchange = [](std::vector<uint32_t> vocabulary) { return std::make_unique<dca::HostExchange>(std::move(vocabulary)); };
    machine.shares = {1.0f, 1.0f, 1.0f};
    machine.describe = [](const std::string& first) { return first; };
    const auto group = dca::make_group_backend({h, w, 1, false, nullptr, nullptr}, std::move(machine));
    for (int i = 0; i < 20; ++i) {  // whichever comes first
        std::string said;
        try {
            static_cast<void>(group->make_engine({}));
        } catch (const dca::Error& error) {
            CHECK(error.status() == DCA_ERROR_MEMORY);
            said = error.what();
        }
        CHECK(said == "room for 128 tokens");
    }
}
