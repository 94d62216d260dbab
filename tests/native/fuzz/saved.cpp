// Fuzz target: saved sequences. A valid file with some edits is refused, and nothing is left of it; with checksums made good
// again it is refused or loads, and then goes on like any sequence.
//
// An input is whether checksums are made good, then edits of six bytes.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/gguf/checksum.h"
#include "faults/small_model.h"
#include "fuzz/promises.h"
#include "fuzz/recipe.h"
#include "fuzz/target.h"
#include "temporary_file.h"

namespace {

constexpr size_t kTokens = 140;  // two pages

struct Setting {
    Setting() : small(test::llama_with_scheme, test::f16) {
        const dca_engine_options options = test::engine_options(512);
        fuzz::promise(dca_engine_create(small.model, &options, &engine) == DCA_OK, "an engine");
        dca_sequence* sequence = nullptr;
        fuzz::promise(dca_sequence_create(engine, &sequence) == DCA_OK, "a sequence");
        const dca_feed feed{sequence, tokens.data(), tokens.size(), DCA_LOGITS_NONE, nullptr, 0};
        fuzz::promise(dca_engine_eval(engine, &feed, 1) == DCA_OK, "a step");
        const test::TemporaryFile file("");
        fuzz::promise(dca_sequence_save(sequence, file.path().c_str()) == DCA_OK, "a saved sequence");
        dca_sequence_free(sequence);
        std::ifstream saved(file.path(), std::ios::binary);
        valid.assign(std::istreambuf_iterator<char>(saved), {});
    }

    std::vector<int32_t> tokens = test::some_tokens(kTokens);
    test::SmallModel small;
    dca_engine* engine = nullptr;
    std::string valid;
    fuzz::MemoryFile file;
};

Setting& setting() {
    static Setting one;  // until the process ends
    return one;
}

void edit(std::string& bytes, fuzz::Bytes& input) {
    const uint8_t kind = input.next() % 6;
    const size_t raw = input.next() | size_t{input.next()} << 8 | size_t{input.next()} << 16;
    const uint8_t value = input.next(), count = input.next();
    // Half of the edits fall into the header.
    const size_t at = raw % std::max<size_t>(1, raw & 1 ? std::min<size_t>(bytes.size(), 512) : bytes.size());
    switch (kind) {
        case 0: bytes[at] = static_cast<char>(bytes[at] ^ value); break;
        case 1: bytes.resize(at); break;
        case 2: bytes.append(count, static_cast<char>(value)); break;
        case 3:
            std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at), std::min<size_t>(count, bytes.size() - at), static_cast<char>(value));
            break;
        case 4: bytes.erase(at, count); break;
        default: bytes.insert(at, count, static_cast<char>(value)); break;
    }
}

void put_sum(std::string& bytes, size_t begin, size_t end, uint64_t part) {
    if (end > bytes.size() || begin > end || bytes.size() - end < sizeof(uint64_t)) return;
    const uint64_t sum = dca::checksum(std::as_bytes(std::span(bytes)).subspan(begin, end - begin), part);
    std::memcpy(bytes.data() + end, &sum, sizeof sum);
}

/// Checksums as docs/format.md states them, wherever the header says that they are.
void make_good(std::string& bytes) {
    constexpr size_t prefix = 16;
    uint64_t text = 0;
    if (bytes.size() < prefix) return;
    std::memcpy(&text, bytes.data() + 8, sizeof text);
    if (text > bytes.size()) return;
    const size_t header = prefix + text;
    put_sum(bytes, 0, header, 1);
    const size_t key = bytes.rfind("tokens ", header);
    const size_t tokens = key == std::string::npos ? 0 : std::strtoul(bytes.c_str() + key + 7, nullptr, 10);
    if (tokens > bytes.size()) return;
    size_t at = header + 8;
    put_sum(bytes, at, at + 4 * tokens, 2);
    at += 4 * tokens + 8;
    const size_t pages = (tokens + 127) / 128;
    const size_t page = pages == 0 || at > bytes.size() ? 0 : (bytes.size() - at) / pages;
    for (size_t i = 0; i < pages && page >= 8; ++i, at += page) put_sum(bytes, at, at + page - 8, 16 + i);
}

uint32_t tokens_used() {
    dca_engine_info info{};
    info.size = sizeof info;
    fuzz::promise(dca_engine_get_info(setting().engine, &info) == DCA_OK, "an engine tells about itself");
    return info.tokens_used;
}

}  // namespace

const char* const fuzz::target_name = "saved sequences";

std::vector<fuzz::Input> fuzz::seeds() { return {{0}, {1}, {1, 0, 0, 0, 0, 1, 1}, {0, 0, 0, 1, 0, 1, 1}, {1, 3, 1, 1, 0, 0, 9}}; }

fuzz::Input fuzz::random_input(Random& random) { return random_bytes(random, 1, 1 + 6 * 4); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Setting& s = setting();
    fuzz::Bytes input({data, size});
    const bool good_sums = input.next() & 1;
    std::string bytes = s.valid;
    while (!input.empty() && !bytes.empty()) edit(bytes, input);
    if (good_sums) make_good(bytes);
    s.file.hold(bytes);
    dca_sequence* sequence = nullptr;
    const bool loaded = fuzz::worked(dca_sequence_load(s.engine, s.file.path().c_str(), &sequence));
    fuzz::promise(loaded == (sequence != nullptr), "a sequence where loading works");
    if (bytes == s.valid) {
        fuzz::promise(loaded && dca_sequence_length(sequence) == kTokens, "a valid file loads");
        fuzz::promise(std::equal(s.tokens.begin(), s.tokens.end(), dca_sequence_tokens(sequence)), "and holds what was saved");
    } else if (!good_sums) {
        fuzz::promise(!loaded, "a damaged file is refused");
    }
    if (loaded) {
        std::vector<float> logits(fuzz::n_vocab);
        for (uint32_t i = 0; i < dca_sequence_length(sequence); ++i)
            fuzz::promise(dca_sequence_tokens(sequence)[i] < static_cast<int32_t>(fuzz::n_vocab), "tokens of the vocabulary");
        const dca_feed feed{sequence, s.tokens.data(), 1, DCA_LOGITS_LAST, logits.data(), logits.size()};
        fuzz::worked(dca_engine_eval(s.engine, &feed, 1));
        dca_sequence_free(sequence);
    }
    fuzz::promise(tokens_used() == 0, "nothing stays in the pool");
    return 0;
}
