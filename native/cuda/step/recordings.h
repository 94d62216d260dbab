// Recordings (CUDA graphs) of decode steps, one for each kind: each number of rows, and whether some of them share pages.
// A step of a kind is recorded once one like it was issued (loading a kernel while recording is an error), and played from
// then on.
//
// A recording sees nothing of what other threads do, with one exception: whoever waits for the whole card, in this
// library or another, voids every recording that is under way on it, whatever its mode. The step is then issued as if
// there was no recording, and the next one is recorded.
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

    /// Whether a step of the kind may be recorded or played.
    bool warm(uint32_t kind) const { return recordings_.contains(kind); }
    void set_warm(uint32_t kind) { recordings_.try_emplace(kind); }

    /// Whether there is a recording, if need be one made now of what `issue` launches on `stream`: nothing of it runs, and where it
    /// fails `issue` may have come to some operation. What playing it takes of the card is taken here.
    bool make(uint32_t kind, const std::function<void()>& issue, cudaStream_t stream);
    /// Launches the recording, which is there.
    void play(uint32_t kind, cudaStream_t stream);

    /// The calling thread's launches are being recorded.
    bool under_way() const noexcept { return under_way_; }

    /// Memory that they read has moved.
    void clear() { recordings_.clear(); }

private:
    struct Recording {
        GraphExec graph;  // null: not recorded yet
        uint32_t failures = 0;
    };

    GraphExec record(const std::function<void()>& issue, cudaStream_t stream);

    std::map<uint32_t, Recording> recordings_;  // by kind
    bool under_way_ = false;
};

}  // namespace dca::cuda
