// What the files of the C API share: handles, required pointers, structs that start with their own size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/engine.h"
#include "core/error.h"
#include "core/model.h"
#include "core/session.h"
#include "dca.h"

struct dca_model {
    dca::Model model;
};

struct dca_session {
    dca::Session session;
};

struct dca_engine {
    dca::Engine engine;
};

struct dca_sequence {
    std::unique_ptr<dca::Sequence> sequence;
};

namespace dca {

template <class T>
T& needed(T* pointer, const char* name) {
    if (pointer == nullptr) fail(DCA_ERROR_ARGUMENT, name, " is NULL");
    return *pointer;
}

inline bool plausible_size(size_t size) noexcept { return size >= sizeof(size_t) && size <= 4096; }

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
