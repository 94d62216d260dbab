// Runs the fuzz target without libFuzzer, the same inputs every time: every family in every format whole, then recipes of
// random edits for some seconds. With files as arguments: those.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include "fuzz/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

/// Where the input that runs is kept meanwhile: a crash leaves it, to be given as an argument.
std::string kept_input() { return std::filesystem::temp_directory_path() / ("dca-fuzz-input-" + std::to_string(::getpid())); }

void run(const std::vector<uint8_t>& input) {
    std::ofstream(kept_input(), std::ios::binary)
        .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
    constexpr int most_random = 20000;
    constexpr auto most_time = std::chrono::seconds(40);
    uint64_t executions = 0;
    for (int i = 1; i < argc; ++i, ++executions) {
        std::ifstream file(argv[i], std::ios::binary);
        run({std::istreambuf_iterator<char>(file), {}});
    }
    if (argc == 1) {
        for (uint32_t family = 0; family < fuzz::families(); ++family) {
            for (uint32_t format = 0; format < fuzz::formats(); ++format, ++executions)
                run({static_cast<uint8_t>(64 | (executions & 63)), static_cast<uint8_t>(family), static_cast<uint8_t>(format)});
        }
        std::mt19937 random(21);
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < most_random && std::chrono::steady_clock::now() - begin < most_time; ++i, ++executions) {
            std::vector<uint8_t> input(3 + random() % 40);
            for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
            run(input);
        }
    }
    std::filesystem::remove(kept_input());
    std::printf("load and eval: %llu executions\n", static_cast<unsigned long long>(executions));
    return 0;
}
