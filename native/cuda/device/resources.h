// Owners of what the CUDA runtime hands out: memory, streams, events, graphs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "cuda/device/check.h"

namespace dca::cuda {

namespace detail {

struct FreeDevice {
    int ordinal = 0;  // of its card
    void operator()(std::byte* memory) const noexcept;
};
struct FreeHost {
    void operator()(std::byte* memory) const noexcept { static_cast<void>(cudaFreeHost(memory)); }
};
struct KeepStream {
    int ordinal;  // of its card
    void operator()(cudaStream_t stream) const noexcept;
};
struct DestroyEvent {
    void operator()(cudaEvent_t event) const noexcept { static_cast<void>(cudaEventDestroy(event)); }
};
struct DestroyGraph {
    void operator()(cudaGraph_t graph) const noexcept { static_cast<void>(cudaGraphDestroy(graph)); }
};
struct DestroyGraphExec {
    void operator()(cudaGraphExec_t graph) const noexcept { static_cast<void>(cudaGraphExecDestroy(graph)); }
};

}  // namespace detail

using DeviceMemory = std::unique_ptr<std::byte, detail::FreeDevice>;
using PinnedMemory = std::unique_ptr<std::byte, detail::FreeHost>;
using Stream = std::unique_ptr<CUstream_st, detail::KeepStream>;
using Event = std::unique_ptr<CUevent_st, detail::DestroyEvent>;
using Graph = std::unique_ptr<CUgraph_st, detail::DestroyGraph>;
using GraphExec = std::unique_ptr<CUgraphExec_st, detail::DestroyGraphExec>;

inline DeviceMemory allocate_device(size_t bytes, const char* what) {
    int ordinal = 0;
    check(cudaGetDevice(&ordinal), what);
    void* memory = nullptr;
    if (bytes > 0) check(cudaMalloc(&memory, bytes), what);
    return DeviceMemory(static_cast<std::byte*>(memory), {ordinal});
}

/// Host memory that the device reads and writes at the same address.
inline PinnedMemory allocate_pinned(size_t bytes, const char* what) {
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped), what);
    return PinnedMemory(static_cast<std::byte*>(memory));
}

/// A stream of the current card that nobody uses, old or new.
///
/// Streams are kept for the next to come instead of being destroyed: a thread that waits for the whole card, as
/// PyTorch's torch.cuda.synchronize does, walks over those that record, and dies within the driver (580.159) when
/// one of them goes at that moment.
Stream make_stream();

inline Event make_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    return Event(event);
}

/// Hands out 256-byte aligned pieces of one allocation. Over a null base it only counts: a layout
/// function runs once to learn the size and once more to place.
class Arena {
public:
    explicit Arena(std::byte* base = nullptr) : base_(base) {}

    template <class T>
    T* take(size_t count) {
        std::byte* at = base_ == nullptr ? nullptr : base_ + bytes_;
        bytes_ += (count * sizeof(T) + 255) / 256 * 256;
        return reinterpret_cast<T*>(at);
    }

    size_t bytes() const noexcept { return bytes_; }

private:
    std::byte* base_;
    size_t bytes_ = 0;
};

}  // namespace dca::cuda
