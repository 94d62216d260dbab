// Much host memory that a card copies to and from, made while steps run.
//
// cudaHostAlloc makes pages and pins them under a lock for which steps wait: on an H100's host 100 to 190 ms for 256 MB. Here pages
// are made first, large ones where the system has them, by several threads and under no lock of the driver's (27 ms with four
// of them), and pinned then (5 ms).
#pragma once

#include <cstddef>
#include <memory>

namespace dca::cuda {

namespace detail {

struct UnpinHost {
    size_t mapped = 0;  // bytes; 0: it is cudaHostAlloc's
    void operator()(std::byte* memory) const noexcept;
};

}  // namespace detail

using LargePinned = std::unique_ptr<std::byte, detail::UnpinHost>;

/// Of the current card and all others, at the same address there.
LargePinned allocate_large_pinned(size_t bytes, const char* what);

}  // namespace dca::cuda
