#include "cuda/device/resources.h"

namespace dca::cuda {

void detail::FreeDevice::operator()(std::byte* memory) const noexcept {
    // Of a thread whose card is lost CUDA takes no call, also none that is about another card.
    int current = 0;
    static_cast<void>(cudaGetDevice(&current));
    if (current != ordinal) static_cast<void>(cudaSetDevice(ordinal));
    static_cast<void>(cudaFree(memory));
    if (current != ordinal) static_cast<void>(cudaSetDevice(current));
}

}  // namespace dca::cuda
