// Fuzz target: calls of an engine in any order, against a model of what must hold: each call's status, the sequences' lengths,
// the pool's pages, and the same logits after the same tokens.
//
// An input is calls: a kind, then what it is about.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "faults/small_model.h"
#include "fuzz/promises.h"
#include "fuzz/recipe.h"
#include "fuzz/target.h"

namespace {

constexpr uint32_t kPage = 128, kPages = 4, kRoom = kPage * kPages;
constexpr size_t kMostSequences = 5, kMostCalls = 24;
constexpr uint32_t kSlots = 3;
constexpr std::array<size_t, 10> kCounts{1, 1, 2, 3, 9, 40, 127, 128, 130, 0};
constexpr float kTolerance = 1e-2f;  // of logits of order 1: rows run as vectors or in panels, by their number (docs/architecture.md)

bool cancels = false;  // the engine's progress callback

/// A sequence as it must be.
struct Known {
    dca_sequence* handle;
    std::vector<int32_t> tokens;
    std::vector<std::shared_ptr<int>> pages;

    /// Pages that `more` tokens take: new ones, and a copy of a partial one that others hold too.
    size_t wanted(size_t more) const {
        const size_t all = (tokens.size() + more + kPage - 1) / kPage;
        return all - pages.size() + (copies(more) ? 1 : 0);
    }
    bool copies(size_t more) const { return more != 0 && tokens.size() % kPage != 0 && pages.back().use_count() > 1; }
    void append(const std::vector<int32_t>& more) {
        if (copies(more.size())) pages.back() = std::make_shared<int>();
        tokens.insert(tokens.end(), more.begin(), more.end());
        while (pages.size() * kPage < tokens.size()) pages.push_back(std::make_shared<int>());
    }
};

/// Tokens to append to a sequence, right or wrong.
struct Fed {
    size_t index;
    std::vector<int32_t> tokens;
    int32_t which;
    std::vector<float> out;
};

class Calls {
public:
    explicit Calls(fuzz::Bytes& input) : input_(input) {
        dca_engine_options options = test::engine_options(kRoom);
        options.max_rows = 64;
        options.progress = [](uint64_t, uint64_t, void*) { return cancels ? 1 : 0; };
        fuzz::promise(dca_engine_create(small().model, &options, &engine_) == DCA_OK, "an engine");
        fuzz::promise(dca_engine_add_slots(engine_, kSlots, nullptr) == DCA_OK, "slots");
        create();
    }
    ~Calls() {
        for (Known& known : all_) dca_sequence_free(known.handle);
        all_.clear();
        check_pool();
        dca_engine_free(engine_);
    }

    void run() {
        for (size_t calls = 0; !input_.empty() && calls < kMostCalls; ++calls) {
            switch (input_.next() % 10) {
                case 0: create(); break;
                case 1: fork(); break;
                case 2: forget(); break;
                case 3: truncate(); break;
                case 4: step(&Calls::eval, 1, false); break;
                case 5: step(&Calls::sample, 1, false); break;
                case 6: step(&Calls::score, 2, false); break;
                case 8: park(); break;
                case 9: unpark(); break;
                default: step(&Calls::eval, 1, true); break;
            }
            check_pool();
        }
    }

private:
    static test::SmallModel& small() {
        static test::SmallModel one(test::llama_with_scheme, test::q8_0);  // until the process ends
        return one;
    }

    Known& any() { return all_[input_.below(all_.size())]; }

    void create() {
        if (all_.size() == kMostSequences) return;
        dca_sequence* handle = nullptr;
        fuzz::promise(dca_sequence_create(engine_, &handle) == DCA_OK, "a sequence");
        all_.push_back({handle, {}, {}});
    }

    void fork() {
        if (all_.size() == kMostSequences) return;
        Known copy = any();
        const dca_sequence* from = copy.handle;
        fuzz::promise(dca_sequence_fork(from, &copy.handle) == DCA_OK, "a fork");
        all_.push_back(copy);
    }

    void forget() {
        if (all_.size() == 1) return;
        const size_t index = input_.below(all_.size());
        dca_sequence_free(all_[index].handle);
        all_.erase(all_.begin() + static_cast<ptrdiff_t>(index));
    }

    void truncate() {
        Known& known = any();
        const size_t length = input_.below(known.tokens.size() + 3);
        const bool fits = length <= known.tokens.size();
        fuzz::promise(fuzz::worked(dca_sequence_truncate(known.handle, static_cast<uint32_t>(length))) == fits, "a truncate that fits");
        if (!fits) return;
        known.tokens.resize(length);
        known.pages.resize((length + kPage - 1) / kPage);
    }

    void park() {
        const Known& known = any();
        const size_t first = input_.below(kPages), whole = known.tokens.size() / kPage;
        const auto slot = static_cast<uint32_t>(input_.below(kSlots + 1));
        const bool fits = first < whole && slot < kSlots;
        fuzz::promise(fuzz::worked(dca_sequence_park_pages(known.handle, static_cast<uint32_t>(first), &slot, 1)) == fits,
                      "a page to park");
        if (fits) parked_[slot].assign(known.tokens.begin(), known.tokens.begin() + static_cast<ptrdiff_t>((first + 1) * kPage));
    }

    /// A slot's page after the tokens that it was parked after: what comes after others is of no use, and no error.
    void unpark() {
        Known& known = any();
        const auto slot = static_cast<uint32_t>(input_.below(kSlots));
        const std::vector<int32_t>& parked = parked_[slot];
        if (parked.size() < kPage) return;
        if (!std::equal(known.tokens.begin(), known.tokens.end(), parked.begin(), parked.end() - kPage)) return;
        const std::vector<int32_t> page(parked.end() - kPage, parked.end());
        const bool fits = used() < kPages;
        fuzz::promise(fuzz::worked(dca_sequence_unpark_pages(known.handle, page.data(), page.size(), &slot, 1)) == fits, "room for a page");
        if (!fits) return;
        fuzz::promise(dca_sequence_in_place(known.handle) == 1, "a page in its place");
        known.append(page);
    }

    std::vector<Fed> some_feeds() {
        std::vector<Fed> feeds(1 + input_.below(3));
        for (Fed& feed : feeds) {
            feed.index = input_.below(all_.size());
            const uint8_t first = input_.next();
            feed.tokens.resize(kCounts[input_.below(kCounts.size())]);
            for (size_t i = 0; i < feed.tokens.size(); ++i) feed.tokens[i] = static_cast<int32_t>((first + i * 5) % fuzz::n_vocab);
            if (first == 255 && !feed.tokens.empty()) feed.tokens.back() = fuzz::n_vocab;  // none of the vocabulary
            feed.which = first % 7 == 6 ? 3 : first % 3;
            feed.out.resize(std::max<size_t>(1, feed.tokens.size()) * fuzz::n_vocab);
        }
        return feeds;
    }

    /// The statuses that a step may end with: one for each thing that is wrong with it.
    std::set<dca_status> wrong(const std::vector<Fed>& feeds, size_t least, bool writes_logits) const {
        std::set<dca_status> wrong;
        std::set<size_t> fed;
        size_t wanted = 0;
        for (const Fed& feed : feeds) {
            const Known& known = all_[feed.index];
            if (!fed.insert(feed.index).second || feed.tokens.size() < least) wrong.insert(DCA_ERROR_ARGUMENT);
            if (std::ranges::any_of(feed.tokens, [](int32_t token) { return token >= static_cast<int32_t>(fuzz::n_vocab); }))
                wrong.insert(DCA_ERROR_ARGUMENT);
            if (writes_logits && feed.which == 3) wrong.insert(DCA_ERROR_ARGUMENT);
            if (known.tokens.size() + feed.tokens.size() > kRoom) wrong.insert(DCA_ERROR_CONTEXT);
            wanted += known.wanted(feed.tokens.size());
        }
        if (wanted > kPages - used()) wrong.insert(DCA_ERROR_CONTEXT);
        if (wrong.empty() && cancels) wrong.insert(DCA_ERROR_CANCELLED);
        return wrong;
    }

    using Run = dca_status (Calls::*)(const std::vector<dca_feed>& feeds);

    void step(Run run, size_t least, bool cancelled) {
        std::vector<Fed> feeds = some_feeds();
        std::vector<dca_feed> given;
        for (Fed& feed : feeds)
            given.push_back(
                {all_[feed.index].handle, feed.tokens.data(), feed.tokens.size(), feed.which, feed.out.data(), feed.out.size()});
        cancels = cancelled;
        const std::set<dca_status> expected = wrong(feeds, least, run == &Calls::eval);
        const dca_status status = (this->*run)(given);
        cancels = false;
        fuzz::worked(status);
        fuzz::promise(expected.empty() ? status == DCA_OK : expected.contains(status), "the status of a step");
        if (status != DCA_OK) return;
        for (const Fed& feed : feeds) all_[feed.index].append(feed.tokens);
        for (const Fed& feed : feeds) {
            if (run == &Calls::eval && feed.which != DCA_LOGITS_NONE) compare(feed);
        }
    }

    dca_status eval(const std::vector<dca_feed>& feeds) { return dca_engine_eval(engine_, feeds.data(), feeds.size()); }
    dca_status score(const std::vector<dca_feed>& feeds) { return dca_engine_score(engine_, feeds.data(), feeds.size()); }
    dca_status sample(const std::vector<dca_feed>& feeds) {
        dca_sampling sampling{};
        sampling.size = sizeof sampling;
        dca_sampling_default(&sampling);
        sampling.temperature = 1.0f;
        sampling.repeat_penalty = 1.2f;
        const std::vector<const dca_sampling*> samplings(feeds.size(), &sampling);
        std::vector<dca_choice> choices(feeds.size(), {-1, 0.0f});
        const dca_status status = dca_engine_sample(engine_, feeds.data(), samplings.data(), feeds.size(), choices.data());
        for (const dca_choice& choice : choices)
            fuzz::promise((choice.token >= 0) == (status == DCA_OK) && choice.token < static_cast<int32_t>(fuzz::n_vocab), "a token");
        return status;
    }

    /// The logits after a sequence's last token are those that its tokens had before, in whatever company.
    void compare(const Fed& feed) {
        const size_t row = feed.which == DCA_LOGITS_ALL ? feed.tokens.size() - 1 : 0;
        const std::vector<float> logits(feed.out.begin() + static_cast<ptrdiff_t>(row * fuzz::n_vocab),
                                        feed.out.begin() + static_cast<ptrdiff_t>((row + 1) * fuzz::n_vocab));
        const auto [before, is_new] = answers_.emplace(all_[feed.index].tokens, logits);
        if (is_new) return;
        for (size_t i = 0; i < logits.size(); ++i)
            fuzz::promise(std::abs(before->second[i] - logits[i]) < kTolerance, "the same logits after the same tokens");
    }

    size_t used() const {
        std::set<const int*> pages;
        for (const Known& known : all_) {
            for (const auto& page : known.pages) pages.insert(page.get());
        }
        return pages.size();
    }

    void check_pool() const {
        dca_engine_info info{};
        info.size = sizeof info;
        fuzz::promise(dca_engine_get_info(engine_, &info) == DCA_OK, "an engine tells about itself");
        fuzz::promise(info.tokens_used == used() * kPage, "pages in use");
        for (const Known& known : all_) {
            fuzz::promise(dca_sequence_length(known.handle) == known.tokens.size(), "a length");
            fuzz::promise(std::equal(known.tokens.begin(), known.tokens.end(), dca_sequence_tokens(known.handle)), "tokens");
        }
    }

    fuzz::Bytes& input_;
    dca_engine* engine_ = nullptr;
    std::vector<Known> all_;
    std::array<std::vector<int32_t>, kSlots> parked_;  // by slot: the tokens up to the end of the page that is in it
    std::map<std::vector<int32_t>, std::vector<float>> answers_;
};

}  // namespace

const char* const fuzz::target_name = "session and engine calls";

std::vector<fuzz::Input> fuzz::seeds() {
    // A prompt, a fork, both going on; a truncate, and the same again; a pool that runs out.
    return {{4, 0, 0, 0, 0, 1, 5, 0, 1, 0, 0, 4, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0},
            {4, 0, 0, 0, 0, 1, 8, 0, 3, 0, 0, 5, 0, 4, 0, 0, 0, 0, 1, 8, 0},
            // A page is parked, and appended to another sequence.
            {4, 0, 0, 0, 1, 7, 8, 0, 0, 1, 0, 9, 1, 1, 4, 0, 1, 1, 0},
            {4, 0, 0, 0, 0, 1, 8, 0, 1, 0, 0, 1, 0, 0, 4, 0, 0, 1, 0, 1, 8, 0, 4, 0, 0, 2, 0, 1, 8, 0, 2, 0, 0}};
}

fuzz::Input fuzz::random_input(Random& random) { return random_bytes(random, 8, 160); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Bytes input({data, size});
    Calls(input).run();
    return 0;
}
