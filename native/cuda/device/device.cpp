#include "cuda/device/device.h"

#include "cuda/device/check.h"

namespace dca::cuda {

namespace {

constexpr int kOldestCapability = 80;

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

int count_devices(int ordinal) {
    int driver = 0, count = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    if (driver == 0) {
        fail(DCA_ERROR_DEVICE, "device cuda:", ordinal, ": no NVIDIA driver is installed (libcuda.so.1); install one, or take device cpu");
    }
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorInsufficientDriver) {
        fail(DCA_ERROR_DEVICE, "device cuda:", ordinal, ": the NVIDIA driver is for CUDA ", version_text(driver), ", this library needs ",
             version_text(CUDART_VERSION), " or newer; update the driver, or take device cpu");
    }
    if (status == cudaErrorNoDevice)
        count = 0;
    else
        check(status, "looking for cards");
    return count;
}

}  // namespace

Device open_device(int ordinal) {
    const int count = count_devices(ordinal);
    if (count == 0) fail(DCA_ERROR_DEVICE, "device cuda:", ordinal, ": there is no NVIDIA card that CUDA can use; take device cpu");
    if (ordinal >= count) {
        fail(DCA_ERROR_DEVICE, "device cuda:", ordinal, ": there ", count == 1 ? "is 1 card" : "are " + std::to_string(count) + " cards",
             ", cuda:0", count == 1 ? "" : " to cuda:" + std::to_string(count - 1));
    }
    check(cudaSetDevice(ordinal), "opening the card");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, ordinal), "asking what the card can do");
    Device device{ordinal, {}, "cuda:" + std::to_string(ordinal) + " (" + properties.name + ")"};
    check(describe_card(ordinal, device.card), "asking what the card can do");
    if (device.card.compute_capability < kOldestCapability) {
        fail(DCA_ERROR_DEVICE, device.description, " has compute capability ", properties.major, ".", properties.minor,
             ", must be 8.0 (Ampere) or newer; take device cpu");
    }
    cudaError_t other = cudaSuccess;
    if (!has_kernels(other)) {
        fail(DCA_ERROR_DEVICE, device.description, ": this build has no code for compute capability ", properties.major, ".",
             properties.minor, "; build with DCA_CUDA_ARCHITECTURES naming it, or take device cpu");
    }
    check(other, "opening the card");
    return device;
}

}  // namespace dca::cuda
