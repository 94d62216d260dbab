#include "cuda/recordings.h"

#include <algorithm>
#include <array>

namespace dca::cuda {

namespace {

constexpr std::array<uint32_t, 11> kSizes = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128};

}  // namespace

uint32_t Recordings::rows_for(uint32_t slices, uint32_t most) noexcept {
    const auto size = std::ranges::lower_bound(kSizes, slices);
    return size == kSizes.end() || *size > most ? most : *size;
}

void Recordings::play(uint32_t rows, const std::function<void()>& issue, cudaStream_t stream) {
    GraphExec& graph = graphs_[rows];
    if (graph == nullptr) graph = record(issue, stream);
    check(cudaGraphLaunch(graph.get(), stream), "running the model");
}

GraphExec Recordings::record(const std::function<void()>& issue, cudaStream_t stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a step");
    under_way_ = true;
    cudaGraph_t raw = nullptr;
    try {
        issue();
    } catch (...) {
        under_way_ = false;
        static_cast<void>(cudaStreamEndCapture(stream, &raw));
        Graph(raw).reset();
        throw;
    }
    under_way_ = false;
    check(cudaStreamEndCapture(stream, &raw), "recording a step");
    const Graph graph(raw);
    cudaGraphExec_t exec = nullptr;
    check(cudaGraphInstantiate(&exec, graph.get(), 0), "recording a step");
    return GraphExec(exec);
}

}  // namespace dca::cuda
