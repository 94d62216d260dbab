#include "cuda/device/large_pinned.h"

#include <sys/mman.h>

#include "core/machine/parallel.h"
#include "cuda/device/resources.h"

namespace dca::cuda {

namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kSmallPage = size_t{4} << 10;
constexpr int kThreads = 4;  // that make pages: more are no faster where a process of many cores runs beside them

/// Memory at a multiple of kLargePage, as is `bytes`; null: there is none.
std::byte* map(size_t bytes) {
    const size_t reserved = bytes + kLargePage;
    void* mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    auto* begin = static_cast<std::byte*>(mapped);
    const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(begin) % kLargePage) % kLargePage;
    if (before != 0) munmap(begin, before);
    munmap(begin + before + bytes, kLargePage - before);
    return begin + before;
}

}  // namespace

void detail::UnpinHost::operator()(std::byte* memory) const noexcept {
    if (mapped == 0) return FreeHost{}(memory);
    static_cast<void>(cudaHostUnregister(memory));
    munmap(memory, mapped);
}

LargePinned allocate_large_pinned(size_t bytes, const char* what) {
    const size_t rounded = (bytes + kLargePage - 1) / kLargePage * kLargePage;
    if (std::byte* memory = map(rounded)) {
        static_cast<void>(madvise(memory, rounded, MADV_HUGEPAGE));  // a wish
        try {
            parallel_ranges(static_cast<int64_t>(rounded / kLargePage), 1, kThreads, [&](int64_t first, int64_t end) {
                for (size_t at = first * kLargePage; at < end * kLargePage; at += kSmallPage) memory[at] = std::byte{0};
            });
        } catch (...) {
            munmap(memory, rounded);
            throw;
        }
        if (cudaHostRegister(memory, rounded, cudaHostRegisterPortable | cudaHostRegisterMapped) == cudaSuccess)
            return LargePinned(memory, {rounded});
        static_cast<void>(cudaGetLastError());  // there are systems where the driver pins its own memory alone
        munmap(memory, rounded);
    }
    return LargePinned(allocate_pinned(bytes, what).release());
}

}  // namespace dca::cuda
