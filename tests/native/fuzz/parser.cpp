// Fuzz target: the parser alone. Any bytes as the start of a file, with zeros behind them that stand for tensors' data: what
// is handed out lies inside the file.
//
// An input is how many zeros there are, then the file's start.
#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/gguf/gguf.h"
#include "core/hparams.h"
#include "fuzz/promises.h"
#include "fuzz/recipe.h"
#include "fuzz/target.h"

namespace {

constexpr std::array<size_t, 3> kZeros{0, 1 << 12, 1 << 16};

volatile unsigned seen;  // so that what is read is read

void read_all(const dca::GgufFile& file) {
    unsigned sum = 0;
    for (const dca::GgufValue& value : file.values()) {
        for (const char byte : value.key) sum += static_cast<unsigned char>(byte);
        for (const std::byte byte : value.data) sum += static_cast<unsigned>(byte);
        fuzz::promise(file.find(value.key) == &value, "a key that is found");
        try {
            sum += static_cast<unsigned>(file.get_u32_list(value.key).value().size());
        } catch (const dca::Error&) {}
        try {
            sum += file.get_f32(value.key).value() > 0.0f;
        } catch (const dca::Error&) {}
    }
    for (const dca::Tensor& tensor : file.tensors()) {
        fuzz::promise(tensor.bytes() > 0 && tensor.data != nullptr, "a tensor that has data");
        sum += static_cast<unsigned>(tensor.data[0]) + static_cast<unsigned>(tensor.data[tensor.bytes() - 1]);
    }
    seen = sum;
}

}  // namespace

const char* const fuzz::target_name = "parser";

std::vector<fuzz::Input> fuzz::seeds() {
    std::vector<Input> all;
    for (uint8_t family = 0; family < families(); ++family) {
        for (const uint8_t format : {uint8_t{0}, uint8_t{7}, uint8_t{11}}) {
            const std::array recipe{family, format};
            Bytes bytes(recipe);
            const std::string file = cook(bytes);
            // The start of the data is a multiple of 32 behind the last tensor's offset: zeros take the data's place.
            const size_t start = file.rfind(".weight");
            Input input{2};
            input.insert(input.end(), file.begin(), file.begin() + static_cast<ptrdiff_t>(std::min(file.size(), start + 64)));
            all.push_back(input);
        }
    }
    return all;
}

/// A seed with a few edits: bytes, and 64-bit numbers at which sums and products go wrong.
fuzz::Input fuzz::random_input(Random& random) {
    static const std::vector<Input> all = seeds();
    constexpr std::array<uint64_t, 10> numbers{0, 1, 31, 255, 1 << 16, 0x7fffffff, 0xffffffff, 1ull << 40, 1ull << 63, ~0ull};
    Input input = all[random() % all.size()];
    input[0] = static_cast<uint8_t>(random());
    for (uint64_t edits = 1 + random() % 4; edits != 0; --edits) {
        const size_t at = 1 + random() % (input.size() - 1);
        switch (random() % 4) {
            case 0: input[at] = static_cast<uint8_t>(random()); break;
            case 1: {
                const uint64_t number = numbers[random() % numbers.size()] + random() % 3 - 1;
                std::copy_n(reinterpret_cast<const uint8_t*>(&number), std::min(sizeof number, input.size() - at),
                            input.begin() + static_cast<ptrdiff_t>(at));
                break;
            }
            case 2: input.resize(std::max<size_t>(at, 2)); break;
            default: input.insert(input.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(random())); break;
        }
    }
    return input;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    static fuzz::MemoryFile in_memory;
    in_memory.hold({reinterpret_cast<const char*>(data + 1), size - 1}, kZeros[data[0] % kZeros.size()]);
    static const std::string path = in_memory.path();
    try {
        const dca::GgufFile file(path);
        read_all(file);
        static_cast<void>(dca::read_hparams(file));
    } catch (const dca::Error& error) {
        fuzz::promise(error.status() == DCA_ERROR_FORMAT || error.status() == DCA_ERROR_UNSUPPORTED, "a damaged file is called that");
    }
    return 0;
}
