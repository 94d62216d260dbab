#include "cuda/step/recordings.h"

#include <algorithm>
#include <array>

namespace dca::cuda {

namespace {

constexpr std::array<uint32_t, 11> kSizes = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128};
constexpr uint32_t kMostFailures = 8;  // to record steps of a kind; then they stay unrecorded

/// Else the error is forgotten: the next launch would report it again.
bool succeeded(cudaError_t status) {
    if (status == cudaSuccess) return true;
    static_cast<void>(cudaGetLastError());
    return false;
}

}  // namespace

uint32_t Recordings::rows_for(uint32_t slices, uint32_t most) noexcept {
    const auto size = std::ranges::lower_bound(kSizes, slices);
    return size == kSizes.end() || *size > most ? most : *size;
}

bool Recordings::make(uint32_t kind, const std::function<void()>& issue, cudaStream_t stream) {
    Recording& recording = recordings_[kind];
    if (recording.graph == nullptr && recording.failures < kMostFailures) {
        recording.graph = record(issue, stream);
        if (recording.graph == nullptr) ++recording.failures;
    }
    return recording.graph != nullptr;
}

void Recordings::play(uint32_t kind, cudaStream_t stream) {
    check(cudaGraphLaunch(recordings_.at(kind).graph.get(), stream), "running the model");
}

GraphExec Recordings::record(const std::function<void()>& issue, cudaStream_t stream) {
    if (!succeeded(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal))) return nullptr;
    under_way_ = true;
    const auto end = [&] {  // also of a void one: the stream takes no work before
        under_way_ = false;
        cudaGraph_t raw = nullptr;
        const bool whole = succeeded(cudaStreamEndCapture(stream, &raw));
        Graph graph(raw);
        return whole ? std::move(graph) : Graph();
    };
    try {
        issue();
    } catch (const Error&) {
        static_cast<void>(end());
        return nullptr;  // if there is more to it than the recording, issuing the step will say so
    } catch (...) {
        static_cast<void>(end());
        throw;
    }
    const Graph graph = end();
    cudaGraphExec_t exec = nullptr;
    if (graph == nullptr || !succeeded(cudaGraphInstantiate(&exec, graph.get(), 0))) return nullptr;
    GraphExec made(exec);
    return succeeded(cudaGraphUpload(exec, stream)) ? std::move(made) : GraphExec();
}

}  // namespace dca::cuda
