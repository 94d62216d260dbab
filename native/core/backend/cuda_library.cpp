#include "core/backend/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <string>

#include "core/error.h"

namespace dca {

namespace {

using MakeBackend = Backend* (*)(const char* version, const BackendSource& source, int ordinal);

/// The path of libdca_cuda beside the library that this code is in.
std::string library_path() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&make_cuda_backend), &info) == 0 || info.dli_fname == nullptr) return "libdca_cuda.so";
    const std::string here = info.dli_fname;
    const size_t slash = here.rfind('/');
    return (slash == std::string::npos ? "./" : here.substr(0, slash + 1)) + "libdca_cuda.so";
}

MakeBackend open_library() {
    const std::string path = library_path();
    if (access(path.c_str(), F_OK) != 0) {
        fail(DCA_ERROR_DEVICE, "this build has no CUDA backend (", path,
             " is not there); pip install dca-export-cuda, build it where a CUDA compiler is found "
             "(DCA_CUDA=ON), or take device cpu");
    }
    // Never closed: CUDA keeps state until the process ends.
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* reason = dlerror();
        fail(DCA_ERROR_DEVICE, "the CUDA backend cannot be opened: ", reason == nullptr ? path : std::string(reason),
             "; if libcublasLt is missing, pip install nvidia-cublas, or take device cpu");
    }
    const auto make = reinterpret_cast<MakeBackend>(dlsym(library, "dca_cuda_make_backend"));
    if (make == nullptr) fail(DCA_ERROR_DEVICE, path, " is not this library's CUDA backend; install both from one build");
    return make;
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const BackendSource& source, int ordinal) {
    return std::unique_ptr<Backend>(open_library()(DCA_VERSION, source, ordinal));
}

}  // namespace dca
