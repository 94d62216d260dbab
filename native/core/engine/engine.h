// One pool of keys and values, and the sequences that share it: every step runs rows of many of them.
//
// A sequence's keys never change once written (P_k depends on the index alone), so sequences with a common
// start share its pages. A page is written by one sequence only: who appends to a page that others hold too
// gets a copy first.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend/backend.h"
#include "core/model.h"
#include "core/engine/host_slots.h"
#include "core/engine/page_pool.h"
#include "core/engine/sleep.h"
#include "core/rope.h"
#include "core/backend/sampling.h"
#include "core/positions/scheme.h"
#include "core/positions/sparse_prefill.h"
#include "dca.h"

namespace dca {

class Engine;

/// Tokens and the pages that hold their keys and values. Its engine outlives it.
class Sequence {
public:
    explicit Sequence(Engine& engine) : engine_(engine) {}
    ~Sequence();
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

    Engine& engine() const noexcept { return engine_; }
    uint32_t length() const noexcept { return static_cast<uint32_t>(tokens_.size()); }
    std::span<const int32_t> tokens() const noexcept { return tokens_; }
    std::span<const uint32_t> pages() const noexcept { return pages_; }

    /// Another sequence that holds the same; their pages are shared.
    std::unique_ptr<Sequence> fork() const;

    /// Forgets the tokens from index `length` on, and gives back pages that hold none.
    void truncate(uint32_t length);

    /// Its keys and values leave for host memory, and its pages are free when they have left: steps of others may run
    /// meanwhile. Nothing if it sleeps already.
    void sleep();
    /// The way back, which takes pages; steps of others may run meanwhile. Throws a context error, and sleeps on, where the pool
    /// has too few. Nothing if it is awake.
    void wake();
    /// Awake, with all keys and values in place.
    void settle();
    /// Whether they are; looks, and waits for nothing.
    bool in_place();
    bool asleep() const noexcept { return asleep_ != nullptr && !asleep_->coming; }

    /// Copies whole pages, from page `first` on, to slots of the engine's; steps may run meanwhile. Where the sequence lets go
    /// of them they are free when they have left.
    void park(uint32_t first, std::span<const uint32_t> slots);
    /// Appends whole pages of tokens, whose keys and values are in slots; steps of others may run meanwhile.
    void unpark(std::span<const int32_t> tokens, std::span<const uint32_t> slots);

    /// Exchanges what two sequences of one engine hold.
    void swap(Sequence& other) noexcept {
        pages_.swap(other.pages_);
        tokens_.swap(other.tokens_);
        asleep_.swap(other.asleep_);
    }

private:
    friend class Engine;

    /// Gives back the pages behind the first `kept`, once what is on its way into them is there.
    void leave_behind(size_t kept);

    Engine& engine_;
    std::vector<uint32_t> pages_;
    std::vector<int32_t> tokens_;
    std::unique_ptr<Asleep> asleep_;  // from sleep() or unpark() until settle()
};

/// Tokens to append to a sequence, and where what follows from them goes.
struct Feed {
    Sequence* sequence;
    std::span<const int32_t> tokens;  // at least one
    dca_logits which = DCA_LOGITS_NONE;
    std::span<float> out;  // logits: as `which` says; likelihoods: one fewer than tokens
};

struct EngineOptions {
    uint32_t tokens;        // room of the pool
    int32_t attention;      // dca_attention
    dca_scheme scheme;      // chunk_size 0: the file's
    dca_border border;      // window 0: the file's
    int32_t cache_type;     // dca_cache_type
    uint32_t max_rows;      // of a step; 0: the backend's choice
    uint32_t max_slices;    // likewise
    dca_progress progress;  // may be null
    void* user;
    int32_t rope;  // dca_rope
    float rope_factor;
    bool one_sequence;  // which has all of the room, so that the length it is made for is known
    const char* room;   // what the caller knows `tokens` as, for messages: "context"
    PrefillSpec prefill;
};

/// What the options of sessions and engines say of prefill, checked; it refers to budgets that are the model's.
PrefillSpec checked_prefill(const Model& model, int32_t prefill, float alpha, uint32_t from, bool record);

class Engine {
public:
    Engine(Model& model, const EngineOptions& options);
    ~Engine();

    /// Appends every feed's tokens in as few steps as hold their rows, and writes the logits asked for. All or nothing:
    /// where it throws, every sequence is as before.
    void eval(std::span<const Feed> feeds);

    /// out[i] of every feed = -log p(tokens[i + 1] | everything up to tokens[i]); at least two tokens each.
    void score(std::span<const Feed> feeds);

    /// Appends like eval, then chooses what follows (core/backend/sampling.h): each feed's last token, or every token of one
    /// with DCA_LOGITS_ALL. `requests` are those of the first feed, then of the next.
    void sample(std::span<const Feed> feeds, std::span<SampleRequest> requests);

    /// Counts what flows into every matrix from here on; throws where the backend cannot.
    void collect_squares();
    const ColumnSquares& squares() const noexcept { return *squares_; }

    /// How many tokens from the start two engines give the very same keys and values; 0 if they differ in more than the
    /// attention, Scheme::kEndless if in nothing.
    uint32_t exact_prefix(const Engine& other) const noexcept;
    /// What keeps all of the other engine's keys and values from being of use here; null if nothing does.
    const char* difference(const Engine& other) const noexcept;

    /// Makes the first `length` tokens of `from`, of this engine or one that `exact_prefix` allows, all that `to` holds.
    void copy_prefix(Sequence& to, const Sequence& from, uint32_t length);

    /// Appends `tokens` without evaluating them: the caller writes their pages next, and no page is written by halves
    /// (the sequence ends at a page's end).
    void adopt(Sequence& sequence, std::span<const int32_t> tokens);

    Model& model() noexcept { return model_; }
    KvCache& cache() noexcept { return *cache_; }
    HostSlots& slots() noexcept { return *slots_; }
    /// Frees the pages that have left for host memory by now.
    void look() { await_free(0); }
    const Scheme& scheme() const noexcept { return scheme_; }
    const RopeFrequencies& rope() const noexcept { return rope_; }
    dca_cache_type cache_type() const noexcept { return cache_type_; }
    const PrefillSpec& prefill() const noexcept { return prefill_; }
    const Executor& executor() const noexcept { return *executor_; }
    uint32_t tokens() const noexcept { return tokens_; }
    uint32_t tokens_used() const noexcept { return (pool_.size() - pool_.free()) * kPageTokens; }
    /// Pages in use that will be free once they have left.
    uint32_t pages_leaving() const noexcept;
    uint64_t cache_bytes() const noexcept { return cache_->bytes(); }
    uint64_t scratch_bytes() const noexcept { return executor_->scratch_bytes(); }
    dca_scheme scheme_info() const noexcept;
    int32_t attention_info() const noexcept;  // dca_attention
    dca_border border_info() const noexcept { return {scheme_.window, scheme_.beyond}; }
    void fill_info(dca_engine_info& info) const;

private:
    friend class Sequence;
    class Reservation;

    void check(std::span<const Feed> feeds, size_t least) const;
    /// Waits for pages that leave for host memory until `pages` are free, or none leaves.
    void await_free(uint64_t pages);
    /// Runs the feeds' tokens. wanted(feed, first, count) says how many of a piece's last rows are read, read(slices' feeds)
    /// reads them after each step.
    struct Piece {
        size_t feed;   // index
        size_t first;  // token of the feed
        size_t count;
    };
    using Wanted = std::function<uint32_t(const Piece&)>;
    using Read = std::function<void(std::span<const Piece>)>;
    void run(std::span<const Feed> feeds, const Wanted& wanted, const Read& read);

    Model& model_;
    Scheme scheme_;
    RopeFrequencies rope_;
    dca_cache_type cache_type_;
    PrefillSpec prefill_;
    dca_progress progress_;
    void* user_;
    uint32_t tokens_;
    const char* room_;
    PagePool pool_;
    std::unique_ptr<KvCache> cache_;
    std::unique_ptr<HostSlots> slots_ = std::make_unique<HostSlots>();
    std::deque<Leaving> leaving_;                                                 // freed from the front
    std::unique_ptr<ColumnSquares> squares_ = std::make_unique<ColumnSquares>();  // outlives the executor
    std::unique_ptr<Executor> executor_;
};

}  // namespace dca
