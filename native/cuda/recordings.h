// Recordings (CUDA graphs) of decode steps, one for each number of rows. A step of so many rows is recorded once
// one like it was issued (loading a kernel while recording is an error), and played from then on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "cuda/device/resources.h"

namespace dca::cuda {

class Recordings {
public:
    /// How many rows a recorded step of so many slices has; the rest is padding. At most `most`, which is at least `slices`.
    static uint32_t rows_for(uint32_t slices, uint32_t most) noexcept;

    /// Whether a step of so many rows may be recorded or played.
    bool warm(uint32_t rows) const { return graphs_.contains(rows); }
    void set_warm(uint32_t rows) { graphs_.try_emplace(rows); }

    /// Launches the recording; where there is none yet, of what `issue` launches on `stream`.
    void play(uint32_t rows, const std::function<void()>& issue, cudaStream_t stream);

    /// The calling thread's launches are being recorded.
    bool under_way() const noexcept { return under_way_; }

    /// Memory that they read has moved.
    void clear() { graphs_.clear(); }

private:
    GraphExec record(const std::function<void()>& issue, cudaStream_t stream);

    std::map<uint32_t, GraphExec> graphs_;  // by rows; null: not recorded yet
    bool under_way_ = false;
};

}  // namespace dca::cuda
