// What runs a model: a machine, or several that share it (core/ranks). A backend owns all memory that steps work on; how a
// machine computes one is said in operations.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend/batch.h"
#include "core/backend/cache_type.h"
#include "core/backend/column_squares.h"
#include "core/backend/device_name.h"
#include "core/hparams.h"
#include "core/rope.h"
#include "core/backend/rank_link.h"
#include "core/backend/sampling.h"
#include "core/backend/token_score.h"
#include "core/positions/scheme.h"
#include "core/positions/sparse_prefill.h"
#include "core/weights.h"
#include "dca.h"

namespace dca {

/// A part of a page: for every layer `tensors` tensors, of every key head `head_bytes` in each, all one after another.
struct PageSection {
    uint32_t tensors;
    size_t head_bytes;
};

/// Keys and values of all layers in pages of kPageTokens tokens (core/engine/page_pool.h). Keys are stored rotated at P_k, so
/// a cache belongs to one scheme, one RoPE and one type.
class KvCache {
public:
    virtual ~KvCache() = default;
    virtual uint64_t bytes() const = 0;

    /// Copies the first `tokens` tokens of page `from` of `source`, a cache of the same backend and type (perhaps this
    /// one), over page `to`. Nothing that runs writes to either.
    virtual void copy_page(uint32_t to, const KvCache& source, uint32_t from, uint32_t tokens) = 0;

    /// How a page of a whole model's lies in a file: caches with equal layouts, of one model, read each other's pages.
    virtual std::string layout(const Hparams& whole) const = 0;
    virtual uint64_t page_bytes() const = 0;
    /// What a page consists of in a file and in save_page's memory.
    virtual std::vector<PageSection> sections() const = 0;
    /// A page to or from host memory of page_bytes(). What lies past its first `tokens` tokens is written as zeros.
    virtual void save_page(uint32_t page, uint32_t tokens, std::byte* out) const = 0;
    virtual void load_page(uint32_t page, const std::byte* in) = 0;

    /// Pages that leave for host memory and come back, while steps go on with others (core/engine/sleep.h, host_slots.h): memory
    /// that is quick to copy to, which any thread may ask for, and copies of host_page_bytes() a page, pages[i] to or from
    /// memory[i], in an order of their own, that have a number each. They come to pass in the order of their numbers; what they
    /// read and write is theirs until then.
    virtual uint64_t host_page_bytes() const { return page_bytes(); }
    virtual std::shared_ptr<std::byte> host_memory(uint64_t bytes) const;
    virtual uint64_t start_saving(std::span<const uint32_t> pages, std::span<std::byte* const> memory) = 0;
    virtual uint64_t start_loading(std::span<const uint32_t> pages, std::span<std::byte* const> memory) = 0;
    /// Whether that copy and those before it have come to pass; they have if it `waits`.
    virtual bool copied(uint64_t number, bool waits) {
        static_cast<void>(number), static_cast<void>(waits);
        return true;
    }

    /// What else a page that is not full takes in a file, behind it: what the step that goes on with it reads more finely. It is
    /// one section.
    virtual uint64_t tail_bytes() const { return 0; }
    virtual PageSection tail_section() const { return {}; }
    virtual void save_tail(uint32_t page, uint32_t tokens, std::byte* out) const {
        static_cast<void>(page), static_cast<void>(tokens), static_cast<void>(out);
    }
    virtual void load_tail(uint32_t page, const std::byte* in) { static_cast<void>(page), static_cast<void>(in); }
};

inline std::shared_ptr<std::byte> KvCache::host_memory(uint64_t bytes) const {
    const std::shared_ptr<std::byte[]> memory(new std::byte[bytes]);
    return {memory, memory.get()};
}

/// Steps over one cache, with their activations and work space: run a batch, then logits, score or sample where something is
/// wanted of it, then end.
class Executor {
public:
    virtual ~Executor() = default;

    virtual uint32_t max_rows() const = 0;    // of a step
    virtual uint32_t max_slices() const = 0;  // likewise
    virtual uint64_t scratch_bytes() const = 0;

    /// The forward pass (forward.h) of a batch of at most max_rows() rows. Afterwards every slice's wanted rows are kept.
    virtual void run(const Batch& batch) = 0;

    /// Logits of every row kept to host memory: row i's (n_vocab) f32 at out[i].
    virtual void logits(std::span<float* const> out) = 0;

    /// What the log-likelihoods of targets[i] after row i of those kept follow from, one target a row, to host memory.
    virtual void score(std::span<const int32_t> targets, TokenScore* out) = 0;

    /// Answers the requests, one a row kept (core/backend/sampling.h). Of several ranks each does some.
    virtual void sample(std::span<SampleRequest* const> requests) = 0;

    /// From here on adds what flows into every matrix to `squares` (core/backend/column_squares.h), which outlives this.
    /// False: this backend does not count it.
    virtual bool collect(ColumnSquares& squares) {
        static_cast<void>(squares);
        return false;
    }

    /// The step's results are in host memory when this returns.
    virtual void end() = 0;

    /// Of the pairs of query and key that dense prefill would have computed so far, the share that sparse prefill did, for each
    /// layer and query head (n_layers · n_heads); NaN where there were none.
    virtual void density(std::span<float> out) const { std::ranges::fill(out, NAN); }

    /// What was chosen so far, where EngineSpec's prefill records it (dca_session_selection states the words).
    virtual std::vector<uint32_t> selection() const { return {}; }
};

/// What an engine asks of its backend.
struct EngineSpec {
    uint32_t tokens = 0;  // that the cache holds
    dca_cache_type cache_type = DCA_CACHE_F16;
    uint32_t max_rows = 0;    // of a step; 0: the backend's choice
    uint32_t max_slices = 0;  // likewise
    Scheme scheme;            // its positions are rows of the table (Scheme::in_rows)
    RopeTable rope;           // a plan, to be filled once all of it fits
    Scheme window_scheme;     // the same for layers with a window; unused where there are none
    RopeTable window_rope;
    PrefillSpec prefill;
    const char* room = "context";  // what the caller calls `tokens`, for messages
    RankLink link = {};            // to the other ranks, where the model is shared
};

/// Why no backend keeps heads of this size in q4; empty if they do.
inline std::string refuses_q4(uint32_t head_dim) {
    if (head_dim % 32 == 0) return {};
    return "a q4 cache takes head sizes that are multiples of 32, this model's is " + std::to_string(head_dim) + "; use cache_type q8";
}

/// What the caches of fewer bits than `type`'s would hold, for messages that say how many tokens fit: fitting(type) each. Empty if
/// there are none for such an engine.
template <class Fitting>
std::string smaller_caches(const EngineSpec& spec, uint32_t head_dim, Fitting fitting) {
    std::string text;
    const auto add = [&](dca_cache_type type, const char* name) {
        text += (text.empty() ? ", or " : ", ") + std::to_string(fitting(type)) + (text.empty() ? " with cache_type " : " with ") + name;
    };
    const bool codes = holds_codes(static_cast<CacheType>(spec.cache_type));
    if (!codes) add(DCA_CACHE_Q8, "q8");
    if (spec.cache_type != DCA_CACHE_Q4 && refuses_q4(head_dim).empty()) add(DCA_CACHE_Q4, "q4");
    return text;
}

/// A model made ready on one machine; shared by its engines.
class Backend {
public:
    virtual ~Backend() = default;
    virtual std::string description() const = 0;
    /// Memory that weights take which were repacked beside the mapped file.
    virtual uint64_t repacked_bytes() const { return 0; }

    struct Parts {
        std::unique_ptr<KvCache> cache;
        std::unique_ptr<Executor> executor;  // over that cache, which outlives it
    };
    /// Why this machine cannot run an engine with these, in one line; empty if it can.
    virtual std::string refuses(const PrefillSpec& prefill, dca_cache_type cache) const {
        if (prefill.sparse) return "sparse prefill runs on the CPU only so far; use prefill dense, or the device cpu";
        if (prefill.stated != nullptr) return "stated budgets run on the CPU only so far; use prefill dense, or the device cpu";
        static_cast<void>(cache);
        return {};
    }
    /// Throws a memory error that names the tokens that would fit, before anything large is allocated.
    virtual Parts make_engine(EngineSpec spec) = 0;
};

/// What a backend is made from. Both outlive it.
struct BackendSource {
    const Hparams& hparams;
    const Weights& weights;
    int32_t threads;        // 0: the physical cores this process may use
    bool repack;            // let the CPU backend repack weights
    dca_progress progress;  // may be null
    void* user;
};

std::unique_ptr<Backend> make_cpu_backend(const BackendSource& source);
/// Several, which share the model.
std::unique_ptr<Backend> make_cpu_ranks(const BackendSource& source, const DeviceName& device);

}  // namespace dca
