// What the files of the C API share: handles, required pointers, structs that start with their own size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "core/engine/engine.h"
#include "core/error.h"
#include "core/model.h"
#include "core/engine/session.h"
#include "dca.h"

namespace dca {

/// An engine and the model it must not outlive.
struct OwnedEngine {
    std::shared_ptr<Model> model;
    Engine engine;
    bool freed = false;  // by its owner; sequences may still be there
};

}  // namespace dca

// What was made from something keeps it: freed in the wrong order, handles give an error instead of reading freed memory.
struct dca_model {
    std::shared_ptr<dca::Model> model;
};

struct dca_session {
    std::shared_ptr<dca::Model> model;
    dca::Session session;
    std::vector<uint32_t> selection;  // what dca_session_selection handed out last
};

struct dca_engine {
    std::shared_ptr<dca::OwnedEngine> owned;
};

struct dca_sequence {
    std::shared_ptr<dca::OwnedEngine> owned;
    std::unique_ptr<dca::Sequence> sequence;
};

namespace dca {

template <class T>
T& needed(T* pointer, const char* name) {
    if (pointer == nullptr) fail(DCA_ERROR_ARGUMENT, name, " is NULL");
    return *pointer;
}

inline Sequence& sequence_of(const dca_sequence* handle) {
    if (needed(handle, "sequence").owned->freed) fail(DCA_ERROR_ARGUMENT, "the sequence's engine was freed; free its sequences before it");
    return *handle->sequence;
}

/// The same for what needs its keys and values.
inline Sequence& awake_sequence_of(const dca_sequence* handle) {
    Sequence& sequence = sequence_of(handle);
    sequence.settle();
    return sequence;
}

/// A struct of this API, of whatever version, is a number of whole words: a size in between would cut a pointer in two.
inline bool plausible_size(size_t size) noexcept { return size >= sizeof(size_t) && size <= 4096 && size % sizeof(size_t) == 0; }

inline dca_logits checked_logits(int32_t which) {
    if (which < DCA_LOGITS_NONE || which > DCA_LOGITS_ALL)
        fail(DCA_ERROR_ARGUMENT, "which is ", which, ", must be one of dca_logits (0 to 2)");
    return static_cast<dca_logits>(which);
}

/// The defaults, as far as the caller's struct reaches.
template <class Options>
void fill_default(Options* out, const Options& defaults) noexcept {
    if (out == nullptr || !plausible_size(out->size)) return;
    const size_t size = out->size;
    std::memcpy(out, &defaults, std::min(size, sizeof(Options)));
    out->size = size;
}

/// The caller's options over the defaults, as far as the caller's struct reaches.
template <class Options>
Options merged(Options merged, const Options* given) {
    if (given == nullptr) return merged;
    if (!plausible_size(given->size)) {
        fail(DCA_ERROR_ARGUMENT, "options->size is ", given->size, "; set it to sizeof(*options) and call the _default function first");
    }
    std::memcpy(&merged, given, std::min(given->size, sizeof(Options)));
    merged.size = sizeof(Options);
    return merged;
}

/// Writes what sparse prefill has read so far, by layer and query head.
inline void read_density(const Model& model, const Executor& executor, std::span<float> out) {
    const Hparams& h = model.hparams();
    const size_t heads = size_t{h.n_layers} * h.n_heads;
    if (out.size() < heads) fail(DCA_ERROR_ARGUMENT, "room for ", out.size(), " values, ", heads, " are to be written");
    executor.density(out.first(heads));
}

/// Fills as much of the caller's info struct as it has room for.
template <class Info, class Source>
void fill(Info* out, const Source& source) {
    const size_t size = needed(out, "info").size;
    if (!plausible_size(size)) fail(DCA_ERROR_ARGUMENT, "info->size is ", size, "; set it to sizeof(*info)");
    Info info{};
    source.fill_info(info);
    info.size = size;
    std::memcpy(out, &info, std::min(size, sizeof(Info)));
}

}  // namespace dca
