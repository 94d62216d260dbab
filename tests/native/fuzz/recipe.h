// GGUF files from a few bytes: a small model of some family in some block format, and edits that spoil it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace fuzz {

/// Takes bytes from the front of what a fuzzer gives; zeros when there are none left.
class Bytes {
public:
    explicit Bytes(std::span<const uint8_t> bytes) : bytes_(bytes) {}

    bool empty() const noexcept { return bytes_.empty(); }
    uint8_t next() noexcept {
        if (bytes_.empty()) return 0;
        const uint8_t byte = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return byte;
    }
    /// Below `count`.
    size_t below(size_t count) noexcept { return count == 0 ? 0 : (next() | size_t{next()} << 8) % count; }

private:
    std::span<const uint8_t> bytes_;
};

constexpr uint32_t n_vocab = 32;

/// The file that the recipe describes: family, format, then edits of four bytes and more to the end. Without edits it loads.
std::string cook(Bytes& recipe);

/// How many families and formats there are: the first two bytes of a recipe, modulo these.
size_t families() noexcept;
size_t formats() noexcept;

}  // namespace fuzz
