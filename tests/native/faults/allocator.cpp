// The program's operator new and delete, which can fail and are counted. (Sanitizers still see malloc and free.)
#include <cstdlib>
#include <new>

#include "faults/faults.h"

namespace {

void* take(size_t bytes) noexcept {
    if (fault::fails(fault::allocation)) return nullptr;
    void* memory = std::malloc(bytes == 0 ? 1 : bytes);
    if (memory != nullptr) fault::count_allocation(1);
    return memory;
}

void* take_aligned(size_t bytes, size_t alignment) noexcept {
    if (fault::fails(fault::allocation)) return nullptr;
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory != nullptr) fault::count_allocation(1);
    return memory;
}

void* or_throw(void* memory) {
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

void give_back(void* memory) noexcept {
    if (memory != nullptr) fault::count_allocation(-1);
    std::free(memory);
}

}  // namespace

void* operator new(size_t bytes) { return or_throw(take(bytes)); }
void* operator new[](size_t bytes) { return or_throw(take(bytes)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment) { return or_throw(take_aligned(bytes, static_cast<size_t>(alignment))); }
void* operator new[](size_t bytes, std::align_val_t alignment) { return or_throw(take_aligned(bytes, static_cast<size_t>(alignment))); }

void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, size_t) noexcept { give_back(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { give_back(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { give_back(memory); }
