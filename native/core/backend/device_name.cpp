#include "core/backend/device_name.h"

#include <algorithm>
#include <charconv>
#include <locale>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "core/error.h"

namespace dca {

namespace {

constexpr float kMostShare = 1e6f;

class Parser {
public:
    explicit Parser(std::string_view name) : name_(name), rest_(name) {}

    DeviceName parse() {
        using Kind = DeviceName::Kind;
        const std::string_view place = next('/');
        if (place == "auto") {
            device_.kind = Kind::Auto;
        } else if (place == "cuda") {
            device_.kind = Kind::Cuda;
            device_.cards = {0};
        } else if (place.starts_with("cuda:")) {
            device_.kind = Kind::Cuda;
            cards(place.substr(std::string_view("cuda:").size()));
        } else if (place != "cpu") {
            unknown();
        }
        std::string_view kind = next('/');
        if (const std::optional<int> ranks = number(kind.substr(0, kind.find('=')))) {
            ranks_on_one(*ranks);
            if (const size_t equals = kind.find('='); equals != std::string_view::npos) shares_on_one(kind.substr(equals + 1));
            kind = next('/');
        }
        device_.by_layers = kind == "layers";
        if (ended_early_ || !rest_.empty() || (!kind.empty() && !device_.by_layers)) unknown();
        if (device_.by_layers && device_.ranks() == 1)
            fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", one device has all layers; name several: cuda:0,1/layers");
        return device_;
    }

private:
    [[noreturn]] void unknown() const {
        fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", must be cpu, cuda, cuda:N or auto, or several cards: cuda:0,1");
    }

    /// What stands before the next `end`, or all the rest.
    std::string_view next(char end) {
        const size_t at = rest_.find(end);
        const std::string_view part = rest_.substr(0, at);
        ended_early_ |= at != std::string_view::npos && at + 1 == rest_.size();
        rest_ = at == std::string_view::npos ? std::string_view() : rest_.substr(at + 1);
        return part;
    }

    static std::optional<int> number(std::string_view digits) {
        int value{};
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
        return value;
    }

    /// Apple's std::from_chars reads no floats.
    static std::optional<float> decimal(std::string_view digits) {
        if (digits.empty() || digits.front() == '+' || digits.find_first_not_of("0123456789.eE+-") != digits.npos) return std::nullopt;
        std::istringstream stream{std::string(digits)};
        stream.imbue(std::locale::classic());
        float value{};
        if (!(stream >> value) || !stream.eof()) return std::nullopt;
        return value;
    }

    void check_ranks(int64_t ranks) const {
        if (ranks < 1 || ranks > kMostRanks)
            fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", which is ", ranks, " ranks, must be 1 to ", kMostRanks);
    }

    /// Calls visit(part) for what stands between commas.
    template <class Visit>
    static void each_part(std::string_view list, Visit&& visit) {
        for (size_t begin = 0; begin <= list.size();) {
            const size_t end = std::min(list.find(',', begin), list.size());
            visit(list.substr(begin, end - begin));
            begin = end + 1;
        }
    }

    float share(std::string_view digits) const {
        const std::optional<float> share = decimal(digits);
        if (!share || !(*share > 0.0f && *share <= kMostShare))
            fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", a card's share must be a number above 0 and at most 1e6: cuda:0=3,1=1");
        return *share;
    }

    /// "0,1" or "0=3,1=1".
    void cards(std::string_view list) {
        device_.shares.clear();
        each_part(list, [this](std::string_view part) {
            const size_t equals = part.find('=');
            const std::optional<int> card = number(part.substr(0, equals));
            if (!card || *card < 0) unknown();
            if (std::ranges::count(device_.cards, *card) != 0)
                fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", which names card ", *card, " twice; name each card once");
            device_.cards.push_back(*card);
            device_.shares.push_back(equals == std::string_view::npos ? 1.0f : share(part.substr(equals + 1)));
        });
        check_ranks(device_.ranks());
    }

    void ranks_on_one(int ranks) {
        if (device_.kind == DeviceName::Kind::Auto || device_.cards.size() > 1 || ranks < 0) unknown();
        check_ranks(ranks);
        device_.shares.assign(static_cast<size_t>(ranks), 1.0f);
        if (device_.kind == DeviceName::Kind::Cuda) device_.cards.resize(device_.shares.size(), device_.cards.front());
    }

    /// "3,1" behind the number of ranks on one device.
    void shares_on_one(std::string_view list) {
        std::vector<float> shares;
        each_part(list, [&](std::string_view part) { shares.push_back(share(part)); });
        if (shares.size() != device_.shares.size()) {
            fail(DCA_ERROR_ARGUMENT, "device is ", name_, ", which has ", shares.size(), " shares for ", device_.ranks(),
                 " ranks; give each rank one: cpu/2=3,1");
        }
        device_.shares = std::move(shares);
    }

    std::string_view name_, rest_;
    bool ended_early_ = false;  // with a slash that nothing follows
    DeviceName device_;
};

}  // namespace

DeviceName parse_device(std::string_view name) { return Parser(name).parse(); }

}  // namespace dca
