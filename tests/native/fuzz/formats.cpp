// Fuzz target: block formats. Any bytes decode, to the same bits on every instruction set; any values are encoded to blocks
// that decode to finite values, or refused.
//
// An input is a format, whether to encode, then the blocks or the values.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/blocks/kernels.h"
#include "cpu/packed.h"
#include "fuzz/promises.h"
#include "fuzz/target.h"

namespace {

// ggml_type
constexpr std::array<uint32_t, 21> kTypes{0, 1, 30, 2, 3, 6, 7, 8, 20, 39, 10, 11, 12, 13, 14, 16, 17, 18, 21, 22, 23};
constexpr size_t kMostBlocks = 48;

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

void decode(const dca::BlockInfo& info, const std::vector<std::byte>& blocks, size_t count) {
    const size_t n = count * info.block_size;
    std::vector<float> values(n), others(n);
    fuzz::promise(dca_decode(static_cast<uint32_t>(info.type), blocks.data(), count * info.block_bytes, n, 1, values.data()) == DCA_OK,
                  "any bytes decode");
    for (const dca::Isa isa : dca::kAllIsas) {
        if (!dca::machine_has(isa)) continue;
        dca::block_kernels(info.type, isa).decode(blocks.data(), static_cast<int64_t>(count), others.data());
        for (size_t i = 0; i < n; ++i) fuzz::promise(same(values[i], others[i]), "the same value on every instruction set");
    }
}

/// Rows of a matrix into the layout of the CPU's integer products.
void pack(const dca::BlockInfo& info, const std::vector<std::byte>& blocks, size_t count) {
    const size_t rows = std::min<size_t>(count, dca::cpu::kPackedRows), of_row = count / rows;
    const auto cols = static_cast<int64_t>(of_row * info.block_size);
    std::vector<std::byte> packed(dca::cpu::packed_group_bytes(info.type, cols));
    if (packed.empty()) return;
    dca::cpu::pack_group(info.type, blocks.data(), static_cast<int64_t>(of_row * info.block_bytes), static_cast<int>(rows), cols,
                         packed.data());
}

void encode(const dca::BlockInfo& info, const std::vector<float>& values) {
    const auto type = static_cast<uint32_t>(info.type);
    const size_t count = values.size() / info.block_size, n = count * info.block_size, bytes = count * info.block_bytes;
    std::vector<std::byte> blocks(bytes), others(bytes);
    if (!fuzz::worked(dca_encode(type, values.data(), n, n, 1, blocks.data(), bytes))) return;
    for (const dca::Isa isa : dca::kAllIsas) {
        if (!dca::machine_has(isa)) continue;
        dca::block_kernels(info.type, isa).encode(values.data(), static_cast<int64_t>(count), others.data());
        fuzz::promise(blocks == others, "the same blocks on every instruction set");
    }
    std::vector<float> back(n);
    fuzz::promise(dca_decode(type, blocks.data(), bytes, n, 1, back.data()) == DCA_OK, "what was encoded decodes");
    for (const float value : back) fuzz::promise(std::isfinite(value), "what was encoded is finite");
}

}  // namespace

const char* const fuzz::target_name = "block formats";

std::vector<fuzz::Input> fuzz::seeds() {
    std::vector<Input> all;
    for (uint8_t format = 0; format < kTypes.size(); ++format) {
        for (const uint8_t encodes : {uint8_t{0}, uint8_t{1}}) {
            Input input{format, encodes};
            for (size_t i = 0; i < 1024; ++i) input.push_back(static_cast<uint8_t>(i % 4 == 3 ? 0x3e : i * 37));
            all.push_back(input);
        }
    }
    return all;
}

/// Random bits are mostly huge floats: half of the inputs have exponents of ordinary values.
fuzz::Input fuzz::random_input(Random& random) {
    Input input = random_bytes(random, 2 + 1024, 2 + 2300);
    if (random() % 2 == 0) {
        for (size_t i = 5; i < input.size(); i += 4) input[i] = static_cast<uint8_t>((input[i] & 0x80) | 0x38 | (input[i] & 7));
    }
    return input;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    const dca::BlockInfo& info = *dca::block_info(kTypes[data[0] % kTypes.size()]);
    const bool encodes = data[1] & 1;
    data += 2;
    size -= 2;
    const size_t count = std::min(size / (encodes ? info.block_size * sizeof(float) : info.block_bytes), kMostBlocks);
    if (count == 0) return 0;
    if (encodes) {
        std::vector<float> values(count * info.block_size);
        std::memcpy(values.data(), data, values.size() * sizeof(float));
        encode(info, values);
    } else {
        std::vector<std::byte> blocks(count * info.block_bytes);
        std::memcpy(blocks.data(), data, blocks.size());
        decode(info, blocks, count);
        pack(info, blocks, count);
    }
    return 0;
}
