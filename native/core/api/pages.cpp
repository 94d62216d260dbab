// The C API of whole pages: what they depend on, and to and from host memory.
#include <cstring>
#include <string>

#include "core/api/support.h"
#include "core/engine/sequence_pages.h"
#include "core/engine/setup.h"
#include "core/gguf/checksum.h"

namespace dca {

namespace {

void write_setup(Engine& engine, char* text, size_t capacity, uint64_t* page_bytes) {
    const std::string lines = setup_text(engine);
    if (lines.size() >= capacity) {
        fail(DCA_ERROR_ARGUMENT, "the setup takes ", lines.size() + 1, " bytes, the room is ", capacity, "; give DCA_SETUP_BYTES");
    }
    std::memcpy(&needed(text, "text"), lines.c_str(), lines.size() + 1);
    needed(page_bytes, "page_bytes") = engine.cache().page_bytes();
}

std::span<std::byte> bytes_at(void* data, size_t bytes, const char* name) {
    if (bytes != 0) needed(static_cast<std::byte*>(data), name);
    return {static_cast<std::byte*>(data), bytes};
}

std::span<const std::byte> bytes_at(const void* data, size_t bytes, const char* name) {
    if (bytes != 0) needed(static_cast<const std::byte*>(data), name);
    return {static_cast<const std::byte*>(data), bytes};
}

std::span<const int32_t> tokens_at(const int32_t* tokens, size_t n) {
    if (n != 0) needed(tokens, "tokens");
    return {tokens, n};
}

}  // namespace
}  // namespace dca

using dca::guarded;
using dca::needed;

dca_status dca_engine_setup(const dca_engine* engine, char* text, size_t capacity, uint64_t* page_bytes) {
    return guarded([&] { dca::write_setup(needed(engine, "engine").owned->engine, text, capacity, page_bytes); });
}

dca_status dca_sequence_read_pages(const dca_sequence* sequence, uint32_t first, uint32_t count, void* pages, size_t bytes) {
    return guarded([&] { dca::read_pages(dca::awake_sequence_of(sequence), first, count, dca::bytes_at(pages, bytes, "pages")); });
}

dca_status dca_sequence_append_pages(dca_sequence* sequence, const int32_t* tokens, size_t n, const void* pages, size_t bytes) {
    return guarded(
        [&] { dca::append_pages(dca::awake_sequence_of(sequence), dca::tokens_at(tokens, n), dca::bytes_at(pages, bytes, "pages")); });
}

dca_status dca_session_setup(const dca_session* session, char* text, size_t capacity, uint64_t* page_bytes) {
    return guarded([&] { dca::write_setup(needed(session, "session").session.sequence().engine(), text, capacity, page_bytes); });
}

dca_status dca_session_read_pages(const dca_session* session, uint32_t first, uint32_t count, void* pages, size_t bytes) {
    return guarded(
        [&] { dca::read_pages(needed(session, "session").session.sequence(), first, count, dca::bytes_at(pages, bytes, "pages")); });
}

dca_status dca_session_append_pages(dca_session* session, const int32_t* tokens, size_t n, const void* pages, size_t bytes) {
    return guarded(
        [&] { needed(session, "session").session.append_pages(dca::tokens_at(tokens, n), dca::bytes_at(pages, bytes, "pages")); });
}

uint64_t dca_checksum(const void* data, size_t bytes, uint64_t seed) {
    if (data == nullptr) bytes = 0;
    return dca::checksum({static_cast<const std::byte*>(data), bytes}, seed);
}
