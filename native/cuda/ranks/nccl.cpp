#include "cuda/ranks/nccl.h"

#include <dlfcn.h>

#include <string>

#include "core/error.h"

namespace dca::cuda {

namespace {

// The few calls used, as NCCL 2 has them (nccl.h).
using Comm = void*;
using Result = int;  // 0: success
constexpr int kSum = 0;

struct Nccl {
    Result (*init_all)(Comm*, int, const int*);
    Result (*all_reduce)(const void*, void*, size_t, int, int, Comm, cudaStream_t);
    Result (*destroy)(Comm);
    Result (*abort)(Comm);
    const char* (*error_text)(Result);
};

template <class Function>
void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr) fail(DCA_ERROR_DEVICE, "libnccl.so.2 has no ", name, "; update it: pip install nvidia-nccl-cu13");
}

Nccl open_nccl() {
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);  // never closed, like CUDA itself
    if (library == nullptr) {
        fail(DCA_ERROR_DEVICE, "these cards do not reach each other's memory, which takes NCCL (libnccl.so.2), and that is not there; ",
             "pip install nvidia-nccl-cu13, or take one card");
    }
    Nccl nccl{};
    find(library, "ncclCommInitAll", nccl.init_all);
    find(library, "ncclAllReduce", nccl.all_reduce);
    find(library, "ncclCommDestroy", nccl.destroy);
    find(library, "ncclCommAbort", nccl.abort);
    find(library, "ncclGetErrorString", nccl.error_text);
    return nccl;
}

const Nccl& nccl() {
    static const Nccl library = open_nccl();
    return library;
}

void check(Result result, const char* what) {
    if (result != 0) fail(DCA_ERROR_DEVICE, "NCCL failed while ", what, ": ", nccl().error_text(result));
}

}  // namespace

void DestroyCommunicator::operator()(void* communicator) const noexcept { static_cast<void>(nccl().destroy(communicator)); }

std::vector<Communicator> make_communicators(const std::vector<int>& cards) {
    std::vector<Comm> made(cards.size());
    check(nccl().init_all(made.data(), static_cast<int>(cards.size()), cards.data()), "connecting the cards");
    std::vector<Communicator> all;
    for (Comm each : made) all.emplace_back(each);
    return all;
}

void sum_by_nccl(const Communicator& communicator, void* values, size_t n, NcclType type, cudaStream_t stream) {
    check(nccl().all_reduce(values, values, n, static_cast<int>(type), kSum, communicator.get(), stream), "summing over the cards");
}

void abort_communicator(Communicator& communicator) noexcept {
    if (void* raw = communicator.release()) static_cast<void>(nccl().abort(raw));
}

}  // namespace dca::cuda
