// From the mapped file to the card: several threads copy pieces of the file into pinned buffers,
// the card fetches each while the next one fills.
#pragma once

#include <array>
#include <cstdint>

#include "core/backend/backend.h"
#include "core/gguf/gguf.h"
#include "cuda/device/resources.h"
#include "cuda/weights/planes.h"

namespace dca::cuda {

class Uploader {
public:
    /// Device memory that an Uploader takes while it lives.
    static constexpr uint64_t kDeviceBytes = 3 * (uint64_t{32} << 20);

    /// `total` file bytes will go through; they are what progress counts.
    Uploader(const BackendSource& source, uint64_t total);
    ~Uploader();

    /// A tensor to rows [first_row, ...) of `to`, in to's format. May return before it has arrived.
    void matrix(const Tensor& tensor, const Matrix& to, uint64_t first_row);

    /// Everything has arrived when this returns.
    void finish();

private:
    struct Slot {
        PinnedMemory host;
        DeviceMemory device;  // blocks on their way to planes
        Event free;
    };

    const BackendSource& source_;
    uint64_t total_, done_ = 0;
    size_t next_ = 0;
    std::array<Slot, 3> slots_;
    Stream stream_;
};

}  // namespace dca::cuda
