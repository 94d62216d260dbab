// A CUDA backend's library for tests: card 0 is the CPU under another name, there is no other.
#include "core/backend/backend.h"
#include "core/backend/device_name.h"
#include "core/error.h"

extern "C" __attribute__((visibility("default"))) dca::Backend* dca_cuda_make_backend(const char*, const dca::BackendSource& source,
                                                                                      const dca::DeviceName& device) {
    for (const int card : device.cards) {
        if (card != 0) dca::fail(DCA_ERROR_DEVICE, "there is no card ", card);
    }
    return dca::make_cpu_backend(source).release();
}
