#include "core/engine/sequence_pages.h"

#include "core/engine/page_pool.h"
#include "core/error.h"

namespace dca {

void read_pages(const Sequence& sequence, uint32_t first, uint32_t count, std::span<std::byte> out) {
    const uint32_t whole = sequence.length() / kPageTokens;
    if (first > whole || count > whole - first) {
        fail(DCA_ERROR_ARGUMENT, "pages ", first, " to ", uint64_t{first} + count, " are wanted, the sequence has ", whole, " whole ones");
    }
    const KvCache& cache = sequence.engine().cache();
    const uint64_t bytes = cache.page_bytes();
    if (out.size() != count * bytes) fail(DCA_ERROR_ARGUMENT, count, " pages take ", count * bytes, " bytes, the room is ", out.size());
    for (uint32_t i = 0; i < count; ++i) cache.save_page(sequence.pages()[first + i], kPageTokens, out.data() + i * bytes);
}

void append_pages(Sequence& sequence, std::span<const int32_t> tokens, std::span<const std::byte> pages) {
    Engine& engine = sequence.engine();
    const uint32_t length = sequence.length();
    if (length % kPageTokens != 0 || tokens.size() % kPageTokens != 0) {
        fail(DCA_ERROR_ARGUMENT, "pages hold ", kPageTokens, " tokens: a sequence of ", length, " tokens cannot get ", tokens.size(),
             " more as whole pages");
    }
    const uint64_t bytes = engine.cache().page_bytes();
    const size_t count = tokens.size() / kPageTokens;
    if (pages.size() != count * bytes) fail(DCA_ERROR_ARGUMENT, count, " pages take ", count * bytes, " bytes, got ", pages.size());
    if (count == 0) return;
    engine.adopt(sequence, tokens);
    try {
        for (size_t i = 0; i < count; ++i) engine.cache().load_page(sequence.pages()[length / kPageTokens + i], pages.data() + i * bytes);
    } catch (...) {
        sequence.truncate(length);
        throw;
    }
}

}  // namespace dca
