#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "cuda/device/resources.h"

namespace dca::cuda {

namespace {

struct Kept {
    std::mutex mutex;
    std::map<int, std::vector<cudaStream_t>> streams;  // by card
};

/// Outlives everything: at the process's end CUDA may be gone before its users are.
Kept& kept() {
    static Kept& all = *new Kept;
    return all;
}

}  // namespace

Stream make_stream() {
    int ordinal = 0;
    check(cudaGetDevice(&ordinal), "making a stream");
    const std::lock_guard lock(kept().mutex);
    std::vector<cudaStream_t>& streams = kept().streams[ordinal];
    if (streams.empty()) {
        cudaStream_t stream = nullptr;
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
        return Stream(stream, {ordinal});
    }
    Stream stream(streams.back(), {ordinal});
    streams.pop_back();
    return stream;
}

void detail::KeepStream::operator()(cudaStream_t stream) const noexcept {
    const std::lock_guard lock(kept().mutex);
    try {
        kept().streams[ordinal].push_back(stream);
    } catch (const std::bad_alloc&) {
        static_cast<void>(cudaStreamDestroy(stream));
    }
}

}  // namespace dca::cuda
