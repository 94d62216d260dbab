#include "core/engine/sequence_file.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <sstream>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "core/gguf/checksum.h"
#include "core/gguf/descriptor.h"
#include "core/error.h"
#include "core/engine/page_pool.h"
#include "core/engine/part_file.h"
#include "core/engine/setup.h"

namespace dca {

namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr std::string_view kMagic = "DCAKV\r\n\2";
constexpr uint64_t kMostHeader = 4096;

// What each checksum is of is part of it, so that whole parts cannot change places.
enum Part : uint64_t { header_part = 1, tokens_part = 2, tail_part = 3, first_page_part = 16 };

/// What a cache keeps of the page that a sequence of so many tokens ends in, besides the page.
uint64_t tail_bytes(Engine& engine, uint32_t tokens) { return tokens % kPageTokens == 0 ? 0 : engine.cache().tail_bytes(); }

std::string header_text(Engine& engine, uint32_t tokens) { return setup_text(engine) + "tokens " + std::to_string(tokens) + "\n"; }

[[noreturn]] void io_failure(const std::string& path, const char* what) {
    fail(DCA_ERROR_IO, path, ": cannot be ", what, ": ", std::strerror(errno));
}

void write_checked(PartFile& file, std::span<const std::byte> bytes, uint64_t part) {
    file.write(bytes);
    const uint64_t sum = checksum(bytes, part);
    file.write(std::as_bytes(std::span(&sum, 1)));
}

class Reader {
public:
    Reader(int descriptor, const std::string& path) : descriptor_(descriptor), path_(path) {}

    void read(std::span<std::byte> bytes) {
        while (!bytes.empty()) {
            const ssize_t got = ::read(descriptor_, bytes.data(), bytes.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) io_failure(path_, "read");
            if (got == 0) fail(DCA_ERROR_FORMAT, path_, ": the file ends too early");
            bytes = bytes.subspan(static_cast<size_t>(got));
        }
    }

    void check_sum(uint64_t expected, const char* what) {
        uint64_t sum = 0;
        read(std::as_writable_bytes(std::span(&sum, 1)));
        if (sum != expected) fail(DCA_ERROR_FORMAT, path_, ": damaged: ", what, " do not match their checksum");
    }

private:
    int descriptor_;
    const std::string& path_;
};

uint32_t read_header(Engine& engine, Reader& reader, const std::string& path) {
    std::string header(kMagic.size() + sizeof(uint64_t), '\0');
    reader.read(std::as_writable_bytes(std::span(header)));
    if (!header.starts_with(kMagic)) fail(DCA_ERROR_FORMAT, path, ": not a saved sequence");
    uint64_t bytes = 0;
    std::memcpy(&bytes, header.data() + kMagic.size(), sizeof bytes);
    if (bytes > kMostHeader)
        fail(DCA_ERROR_FORMAT, path, ": damaged: a header of ", bytes, " bytes, at most ", kMostHeader, " are possible");
    const size_t start = header.size();
    header.resize(start + bytes);
    reader.read(std::as_writable_bytes(std::span(header)).subspan(start));
    reader.check_sum(checksum(std::as_bytes(std::span(header)), header_part), "the header's bytes");

    std::string_view rest = std::string_view(header).substr(start);
    const auto next_line = [&] {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        return line;
    };
    for (const std::string& expected : setup_lines(engine)) {
        const std::string_view line = next_line();
        if (line != expected) fail(DCA_ERROR_FORMAT, path, ": saved under another setup: expected ", expected, ", found ", line);
    }
    const std::string_view line = next_line();
    constexpr std::string_view key = "tokens ";
    uint32_t tokens = 0;
    const auto [end, error] = std::from_chars(line.data() + std::min(key.size(), line.size()), line.data() + line.size(), tokens);
    if (!line.starts_with(key) || error != std::errc() || end != line.data() + line.size()) {
        fail(DCA_ERROR_FORMAT, path, ": damaged: expected the number of tokens, found ", line);
    }
    return tokens;
}

}  // namespace

void save_sequence(const Sequence& sequence, const std::string& path) {
    Engine& engine = sequence.engine();
    const std::string text = header_text(engine, sequence.length());
    const uint64_t bytes = text.size();
    std::string header(kMagic);
    header.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
    header += text;
    PartFile file(path);
    write_checked(file, std::as_bytes(std::span(header)), header_part);
    write_checked(file, std::as_bytes(sequence.tokens()), tokens_part);
    std::vector<std::byte> page(engine.cache().page_bytes());
    for (uint32_t i = 0; i < sequence.pages().size(); ++i) {
        engine.cache().save_page(sequence.pages()[i], std::min(kPageTokens, sequence.length() - i * kPageTokens), page.data());
        write_checked(file, page, first_page_part + i);
    }
    if (const uint64_t bytes = tail_bytes(engine, sequence.length()); bytes != 0) {
        page.resize(bytes);
        engine.cache().save_tail(sequence.pages().back(), sequence.length() % kPageTokens, page.data());
        write_checked(file, page, tail_part);
    }
    file.finish();
}

std::unique_ptr<Sequence> load_sequence(Engine& engine, const std::string& path) {
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) io_failure(path, "opened");
    struct stat status{};
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) fail(DCA_ERROR_IO, path, ": not a regular file");
    Reader reader(file.get(), path);
    const uint32_t tokens = read_header(engine, reader, path);
    const uint64_t pages = pages_for(tokens);
    const uint64_t tail = tail_bytes(engine, tokens);
    const uint64_t rest = uint64_t{tokens} * sizeof(int32_t) + sizeof(uint64_t) + pages * (engine.cache().page_bytes() + sizeof(uint64_t)) +
                          (tail != 0 ? tail + sizeof(uint64_t) : 0);
    const off_t here = ::lseek(file.get(), 0, SEEK_CUR);
    if (static_cast<uint64_t>(status.st_size - here) != rest) {
        fail(DCA_ERROR_FORMAT, path, ": damaged: ", tokens, " tokens take ", rest, " bytes after the header, the file has ",
             status.st_size - here);
    }
    std::vector<int32_t> ids(tokens);
    reader.read(std::as_writable_bytes(std::span(ids)));
    reader.check_sum(checksum(std::as_bytes(std::span(ids)), tokens_part), "the tokens");
    auto sequence = std::make_unique<Sequence>(engine);
    if (tokens == 0) return sequence;
    engine.adopt(*sequence, ids);
    std::vector<std::byte> page(engine.cache().page_bytes());
    for (uint32_t i = 0; i < pages; ++i) {
        reader.read(page);
        reader.check_sum(checksum(page, first_page_part + i), "keys and values");
        engine.cache().load_page(sequence->pages()[i], page.data());
    }
    if (tail != 0) {
        page.resize(tail);
        reader.read(page);
        reader.check_sum(checksum(page, tail_part), "keys and values");
        engine.cache().load_tail(sequence->pages().back(), page.data());
    }
    return sequence;
}

}  // namespace dca
