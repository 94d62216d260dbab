#include "core/engine/engine.h"

#include <algorithm>
#include <utility>

#include "core/backend/batch.h"
#include "core/error.h"

namespace dca {

Sequence::~Sequence() {
    try {
        leave_behind(0);
    } catch (...) {
        // The device is lost, or there is no memory to remember the pages by: they are never free again.
    }
}

std::unique_ptr<Sequence> Sequence::fork() const {
    auto copy = std::make_unique<Sequence>(engine_);
    copy->tokens_ = tokens_;
    copy->pages_ = pages_;
    if (asleep_ != nullptr) {  // on its way: the copy waits for the same
        copy->asleep_ = std::make_unique<Asleep>();
        copy->asleep_->memory = asleep_->memory;
        copy->asleep_->coming = true;
        copy->asleep_->number = asleep_->number;
    }
    for (const uint32_t page : pages_) engine_.pool_.retain(page);
    return copy;
}

void Sequence::truncate(uint32_t length) {
    if (length > tokens_.size()) fail(DCA_ERROR_ARGUMENT, "cannot truncate to ", length, " tokens, the sequence has ", tokens_.size());
    leave_behind(pages_for(length));
    tokens_.resize(length);
}

/// Pages for what the feeds append, and copies of shared ones that they write to. Without commit() all is undone.
class Engine::Reservation {
public:
    // An object that stands before its pages are taken: where a page cannot be copied, its destructor gives them back.
    Reservation(Engine& engine, std::span<const Feed> feeds) : Reservation(Nothing{}, engine, feeds) {
        uint64_t wanted = 0;
        for (const Feed& feed : feeds) wanted += pages_wanted(feed);
        engine.await_free(wanted);
        if (wanted > engine.pool_.free()) {
            fail(DCA_ERROR_CONTEXT, "the ", engine.room_, " holds ", engine.tokens_, " tokens, ", engine.tokens_used(),
                 " are in use and room for ", wanted * kPageTokens, " more is wanted (in pages of ", kPageTokens,
                 "); close or shorten sequences, or make it larger");
        }
        undo_.reserve(feeds.size());
        for (const Feed& feed : feeds) {
            const uint32_t pages = pages_for(uint64_t{feed.sequence->length()} + feed.tokens.size());
            feed.sequence->pages_.reserve(pages);
            feed.sequence->tokens_.reserve(feed.sequence->tokens_.size() + feed.tokens.size());
        }
        // From here on nothing allocates on the host.
        for (const Feed& feed : feeds) reserve(feed);
    }

    ~Reservation() {
        if (committed_) return;
        for (size_t i = 0; i < undo_.size(); ++i) {
            std::vector<uint32_t>& pages = feeds_[i].sequence->pages_;
            for (; pages.size() > undo_[i].pages; pages.pop_back()) engine_.pool_.release(pages.back());
            if (!undo_[i].copied) continue;
            engine_.pool_.release(pages.back());
            pages.back() = undo_[i].original;
        }
    }

    void commit() noexcept {
        committed_ = true;
        for (size_t i = 0; i < undo_.size(); ++i) {
            if (undo_[i].copied) engine_.pool_.release(undo_[i].original);
            std::vector<int32_t>& tokens = feeds_[i].sequence->tokens_;
            tokens.insert(tokens.end(), feeds_[i].tokens.begin(), feeds_[i].tokens.end());
        }
    }

private:
    struct Nothing {};
    Reservation(Nothing, Engine& engine, std::span<const Feed> feeds) noexcept : engine_(engine), feeds_(feeds) {}

    struct Undo {
        size_t pages;       // the sequence had
        bool copied;        // its last one was replaced by a copy
        uint32_t original;  // of the copy
    };

    bool writes_to_shared_page(const Sequence& sequence) const noexcept {
        return sequence.length() % kPageTokens != 0 && engine_.pool_.shared(sequence.pages_.back());
    }

    uint64_t pages_wanted(const Feed& feed) const noexcept {
        const Sequence& sequence = *feed.sequence;
        return pages_for(uint64_t{sequence.length()} + feed.tokens.size()) - sequence.pages_.size() +
               (writes_to_shared_page(sequence) ? 1 : 0);
    }

    void reserve(const Feed& feed) {
        Sequence& sequence = *feed.sequence;
        undo_.push_back({sequence.pages_.size(), false, 0});
        if (writes_to_shared_page(sequence)) {
            uint32_t& last = sequence.pages_.back();
            undo_.back().original = std::exchange(last, engine_.pool_.take());
            undo_.back().copied = true;
            engine_.cache_->copy_page(last, *engine_.cache_, undo_.back().original, sequence.length() % kPageTokens);
        }
        const uint32_t pages = pages_for(uint64_t{sequence.length()} + feed.tokens.size());
        while (sequence.pages_.size() < pages) sequence.pages_.push_back(engine_.pool_.take());
    }

    Engine& engine_;
    std::span<const Feed> feeds_;
    std::vector<Undo> undo_;
    bool committed_ = false;
};

namespace {

/// What the options and the file ask for.
Scheme chosen_scheme(const EngineOptions& options, const Hparams& hparams) {
    if (has_border(options.attention)) {
        const bool of_file = options.border.window == 0 && options.attention == DCA_ATTENTION_STRING;
        return make_border_scheme(of_file ? hparams.border : options.border, options.attention);
    }
    const bool given = options.scheme.chunk_size != 0;
    if (options.attention == DCA_ATTENTION_AUTO && !given && hparams.border.window != 0) {
        return make_border_scheme(hparams.border, DCA_ATTENTION_STRING);
    }
    return make_scheme(given ? options.scheme : hparams.scheme, options.attention);
}

}  // namespace

Engine::Engine(Model& model, const EngineOptions& options)
    : model_(model),
      prefill_(options.prefill),
      progress_(options.progress),
      user_(options.user),
      tokens_(options.tokens),
      room_(options.room),
      pool_(0) {
    constexpr uint32_t most = 1u << 30;
    if (tokens_ == 0 || tokens_ > most) fail(DCA_ERROR_ARGUMENT, room_, " is ", tokens_, ", must be 1 to ", most);
    if (options.cache_type < DCA_CACHE_F16 || options.cache_type > DCA_CACHE_Q4) {
        fail(DCA_ERROR_ARGUMENT, "cache_type is ", options.cache_type, ", must be one of dca_cache_type (0 to 4)");
    }
    model.check_usable();
    scheme_ = chosen_scheme(options, model.hparams());
    cache_type_ = static_cast<dca_cache_type>(options.cache_type);
    if (prefill_.sparse && scheme_.chunk_size < kPageTokens) {
        fail(DCA_ERROR_UNSUPPORTED, "sparse prefill takes chunks of at least ", kPageTokens,
             " tokens (a page has one mean key on each side of ", "a border), the scheme's chunk_size is ", scheme_.chunk_size,
             "; use prefill dense");
    }
    if (prefill_.chooses() && scheme_.moves()) {
        fail(DCA_ERROR_UNSUPPORTED, "prefill ", prefill_.sparse ? "sparse" : "stated",
             " takes dca or plain attention, not a border that moves with the query; use prefill dense");
    }
    if (options.rope == DCA_ROPE_DYNAMIC && !options.one_sequence) {
        fail(DCA_ERROR_UNSUPPORTED, "dynamic NTK's base follows from the length a session is made for, and sequences of an engine have ",
             "none; use rope ntk with the factor F n / L - (F - 1) for n tokens");
    }
    if (const std::string why = model.backend().refuses(prefill_, cache_type_); !why.empty()) fail(DCA_ERROR_UNSUPPORTED, why);
    const Hparams scaled = with_rope(model.hparams(), options.rope, options.rope_factor, scheme_.position_count(tokens_));
    const Weights without_factors;  // those in the file are its own scaling, which another one replaces
    const Weights& factors = options.rope == DCA_ROPE_MODEL ? model.weights() : without_factors;
    RopeTable rope = plan_rope_table(scaled, factors, scheme_, tokens_);
    rope_ = rope.frequencies;
    const uint32_t window = model.hparams().window;
    Backend::Parts parts = model.backend().make_engine({
        .tokens = tokens_,
        .cache_type = cache_type_,
        .max_rows = std::min(options.max_rows, tokens_),
        .max_slices = options.max_slices,
        .scheme = scheme_.in_rows(tokens_),
        .rope = std::move(rope),
        .window_scheme = window == 0 ? Scheme{} : window_scheme(window).in_rows(tokens_),
        .window_rope = window == 0 ? RopeTable{} : plan_window_rope_table(model.hparams(), model.weights(), tokens_),
        .prefill = prefill_,
        .room = room_,
    });
    cache_ = std::move(parts.cache);
    executor_ = std::move(parts.executor);
    pool_ = PagePool(pages_for(tokens_));
}

Engine::~Engine() {
    try {
        for (const Leaving& leaving : leaving_) static_cast<void>(cache_->copied(leaving.number, true));
    } catch (...) {
        // The device is lost, and with it every copy.
    }
}

PrefillSpec checked_prefill(const Model& model, int32_t prefill, float alpha, uint32_t from, bool record) {
    if (prefill == DCA_PREFILL_DENSE) return {};
    if (prefill == DCA_PREFILL_STATED) {
        const Hparams& h = model.hparams();
        if (h.budgets.heads.empty()) {
            fail(DCA_ERROR_UNSUPPORTED, "prefill stated takes a file that states budgets (", h.architecture,
                 ".attention.budget.columns), this one states none; use prefill dense or sparse");
        }
        return {.from = h.budgets.from, .record = record, .stated = &h.budgets};
    }
    if (prefill != DCA_PREFILL_SPARSE) fail(DCA_ERROR_ARGUMENT, "prefill is ", prefill, ", must be one of dca_prefill (0 to 2)");
    if (!(alpha >= 0.0f && alpha <= 1.0f)) fail(DCA_ERROR_ARGUMENT, "alpha of sparse prefill is ", alpha, ", must be from 0 to 1");
    return {.sparse = true, .alpha = alpha, .from = from, .record = record};
}

int32_t Engine::attention_info() const noexcept {
    switch (scheme_.border) {
        case Border::String: return DCA_ATTENTION_STRING;
        case Border::Streaming: return DCA_ATTENTION_STREAMING;
        case Border::LmInfinite: return DCA_ATTENTION_LM_INFINITE;
        case Border::Chunk: break;
    }
    return scheme_.plain() ? DCA_ATTENTION_PLAIN : DCA_ATTENTION_DUAL_CHUNK;
}

dca_scheme Engine::scheme_info() const noexcept {
    if (scheme_.endless()) return {};
    return {scheme_.chunk_size, scheme_.local_window, scheme_.pretraining_length, scheme_.logit_scale, scheme_.logit_scale_length};
}

void Engine::collect_squares() {
    if (!executor_->collect(*squares_))
        fail(DCA_ERROR_UNSUPPORTED, "what flows into matrices is counted on the CPU only; load the model with device cpu");
}

void Engine::fill_info(dca_engine_info& info) const {
    info.tokens = tokens_;
    info.tokens_used = tokens_used();
    info.page_tokens = kPageTokens;
    info.max_rows = executor_->max_rows();
    info.cache_bytes = cache_bytes();
    info.scratch_bytes = scratch_bytes();
    info.scheme = scheme_info();
    info.attention = attention_info();
    info.border = border_info();
    info.tokens_leaving = pages_leaving() * kPageTokens;
}

void Engine::check(std::span<const Feed> feeds, size_t least) const {
    model_.check_usable();
    const uint32_t n_vocab = model_.hparams().n_vocab;
    for (size_t i = 0; i < feeds.size(); ++i) {
        const Feed& feed = feeds[i];
        if (feed.sequence == nullptr) fail(DCA_ERROR_ARGUMENT, "sequence ", i, " is NULL");
        if (&feed.sequence->engine_ != this) fail(DCA_ERROR_ARGUMENT, "sequence ", i, " belongs to another engine");
        for (size_t j = 0; j < i; ++j) {
            if (feeds[j].sequence == feed.sequence)
                fail(DCA_ERROR_ARGUMENT, "sequences ", j, " and ", i, " are the same; a sequence can be in a batch once");
        }
        if (feed.tokens.size() < least)
            fail(DCA_ERROR_ARGUMENT, "expected at least ", least, least == 1 ? " token" : " tokens", ", got ", feed.tokens.size());
        if (feed.tokens.size() > tokens_ - std::min(tokens_, feed.sequence->length())) {
            fail(DCA_ERROR_CONTEXT, "the ", room_, " holds ", tokens_, " tokens, ", feed.sequence->length(), " are in it and ",
                 feed.tokens.size(), " more do not fit; make it larger");
        }
        for (size_t t = 0; t < feed.tokens.size(); ++t) {
            if (feed.tokens[t] < 0 || static_cast<uint32_t>(feed.tokens[t]) >= n_vocab) {
                fail(DCA_ERROR_ARGUMENT, "token id ", feed.tokens[t], " at index ", t, " is not in the vocabulary of ", n_vocab, " tokens");
            }
        }
    }
}

void Engine::run(std::span<const Feed> feeds, const Wanted& wanted, const Read& read) {
    uint64_t total = 0, done = 0;
    for (const Feed& feed : feeds) total += feed.tokens.size();
    for (const Feed& feed : feeds) feed.sequence->settle();
    Reservation reservation(*this, feeds);
    std::vector<Piece> pieces;
    std::vector<Slice> slices;
    for (Piece next{0, 0, 0}; next.feed < feeds.size();) {
        pieces.clear();
        slices.clear();
        for (uint32_t room = executor_->max_rows(); room != 0 && next.feed < feeds.size() && slices.size() < executor_->max_slices();) {
            const Feed& feed = feeds[next.feed];
            next.count = std::min<size_t>(room, feed.tokens.size() - next.first);
            // What a prompt ends with asks about all of it, so it reads all of it; unless the file states what it reads.
            const bool asks = wanted({next.feed, 0, feed.tokens.size()}) != 0;
            const uint32_t length = feed.sequence->length() + static_cast<uint32_t>(feed.tokens.size());
            pieces.push_back(next);
            slices.push_back({.pages = feed.sequence->pages_,
                              .start = feed.sequence->length() + static_cast<uint32_t>(next.first),
                              .tokens = feed.tokens.subspan(next.first, next.count),
                              .wanted = wanted(next),
                              .sparse_end = asks && prefill_.sparse ? length - std::min(length, kDenseTail) : length});
            room -= static_cast<uint32_t>(next.count);
            done += next.count;
            next.first += next.count;
            if (next.first == feed.tokens.size()) next = {next.feed + 1, 0, 0};
        }
        const Batch batch{slices};
        executor_->run(batch);
        if (batch.wanted() != 0) read(pieces);
        executor_->end();
        if (progress_ != nullptr && progress_(done, total, user_) != 0) {
            fail(DCA_ERROR_CANCELLED, "cancelled after ", done, " of ", total, " tokens");
        }
    }
    reservation.commit();
}

void Engine::eval(std::span<const Feed> feeds) {
    check(feeds, 1);
    const size_t n_vocab = model_.hparams().n_vocab;
    for (const Feed& feed : feeds) {
        const size_t rows = feed.which == DCA_LOGITS_ALL ? feed.tokens.size() : feed.which == DCA_LOGITS_LAST ? 1 : 0;
        if (feed.out.size() / n_vocab < rows) {
            fail(DCA_ERROR_ARGUMENT, "room for ", feed.out.size(), " logits, ", rows, " times ", n_vocab, " are to be written");
        }
    }
    const auto wanted = [&](const Piece& piece) -> uint32_t {
        const Feed& feed = feeds[piece.feed];
        if (feed.which == DCA_LOGITS_ALL) return static_cast<uint32_t>(piece.count);
        return feed.which == DCA_LOGITS_LAST && piece.first + piece.count == feed.tokens.size() ? 1 : 0;
    };
    std::vector<float*> rows;
    run(feeds, wanted, [&](std::span<const Piece> pieces) {
        rows.clear();
        for (const Piece& piece : pieces) {
            const Feed& feed = feeds[piece.feed];
            const size_t first = feed.which == DCA_LOGITS_ALL ? piece.first : 0;
            for (uint32_t row = 0; row < wanted(piece); ++row) rows.push_back(feed.out.data() + (first + row) * n_vocab);
        }
        executor_->logits(rows);
    });
}

void Engine::score(std::span<const Feed> feeds) {
    check(feeds, 2);
    for (const Feed& feed : feeds) {
        if (feed.out.size() < feed.tokens.size() - 1) {
            fail(DCA_ERROR_ARGUMENT, "room for ", feed.out.size(), " values, ", feed.tokens.size() - 1, " are to be written");
        }
    }
    std::vector<int32_t> targets;
    std::vector<TokenScore> scores;
    const auto wanted = [](const Piece& piece) { return static_cast<uint32_t>(piece.count); };
    run(feeds, wanted, [&](std::span<const Piece> pieces) {
        targets.clear();
        for (const Piece& piece : pieces) {
            const std::span<const int32_t> tokens = feeds[piece.feed].tokens;
            for (size_t t = piece.first + 1; t <= piece.first + piece.count; ++t) {
                targets.push_back(t < tokens.size() ? tokens[t] : 0);  // the last token has no successor to predict
            }
        }
        scores.resize(targets.size());
        executor_->score(targets, scores.data());
        const TokenScore* score = scores.data();
        for (const Piece& piece : pieces) {
            const Feed& feed = feeds[piece.feed];
            const size_t scored = std::min(piece.count, feed.tokens.size() - 1 - piece.first);
            std::transform(score, score + scored, feed.out.data() + piece.first, negative_log_likelihood);
            score += piece.count;
        }
    });
}

void Engine::sample(std::span<const Feed> feeds, std::span<SampleRequest> requests) {
    check(feeds, 1);
    const auto wanted = [&](const Piece& piece) -> uint32_t {
        const Feed& feed = feeds[piece.feed];
        if (feed.which == DCA_LOGITS_ALL) return static_cast<uint32_t>(piece.count);
        return piece.first + piece.count == feed.tokens.size() ? 1 : 0;
    };
    std::vector<SampleRequest*> rows;
    SampleRequest* next = requests.data();  // pieces come in the order of feeds and their tokens
    run(feeds, wanted, [&](std::span<const Piece> pieces) {
        rows.clear();
        for (const Piece& piece : pieces) {
            for (uint32_t row = 0; row < wanted(piece); ++row) rows.push_back(next++);
        }
        executor_->sample(rows);
    });
}

const char* Engine::difference(const Engine& other) const noexcept {
    if (&model_ != &other.model_) return "models differ";
    if (cache_type_ != other.cache_type_) return "cache types differ";
    if (rope_ != other.rope_) return "RoPE scalings differ";
    return nullptr;
}

uint32_t Engine::exact_prefix(const Engine& other) const noexcept {
    if (difference(other) != nullptr) return 0;
    const uint32_t common = common_prefix(scheme_, other.scheme_);
    return prefill_ == other.prefill_ ? common : std::min({common, prefill_.dense_tokens(), other.prefill_.dense_tokens()});
}

void Engine::adopt(Sequence& sequence, std::span<const int32_t> tokens) {
    const Feed feed{.sequence = &sequence, .tokens = tokens, .out = {}};
    check({&feed, 1}, 1);
    Reservation reservation(*this, {&feed, 1});
    reservation.commit();
}

void Engine::copy_prefix(Sequence& to, const Sequence& from, uint32_t length) {
    const Engine& source = from.engine_;
    if (&to == &from) fail(DCA_ERROR_ARGUMENT, "a sequence cannot copy from itself");
    if (const char* what = difference(source)) fail(DCA_ERROR_ARGUMENT, "the ", what, ": the keys and values have nothing in common");
    if (const uint32_t exact = exact_prefix(source); length > exact) {
        fail(DCA_ERROR_ARGUMENT, "cannot copy ", length, " tokens: the two ways of attention or prefill give only the first ", exact,
             " the same keys and values");
    }
    if (length > from.length()) fail(DCA_ERROR_ARGUMENT, "cannot copy ", length, " tokens, the other one has ", from.length());
    if (length > tokens_) fail(DCA_ERROR_CONTEXT, "cannot copy ", length, " tokens, the ", room_, " holds ", tokens_);
    const uint32_t pages = pages_for(length);
    if (pages > pool_.free() + to.pages_.size()) {
        fail(DCA_ERROR_CONTEXT, "cannot copy ", length, " tokens: the ", room_, " holds ", tokens_, ", ", tokens_used(), " are in use");
    }
    Sequence copy(*this);
    copy.tokens_.assign(from.tokens_.begin(), from.tokens_.begin() + length);
    copy.pages_.reserve(pages);
    to.truncate(0);  // its pages are needed: where the device fails to copy, `to` is left empty
    while (copy.pages_.size() < pages) copy.pages_.push_back(pool_.take());
    for (uint32_t i = 0; i < pages; ++i)
        cache_->copy_page(copy.pages_[i], *source.cache_, from.pages_[i], std::min(kPageTokens, length - i * kPageTokens));
    to.swap(copy);
}

}  // namespace dca
