// Runs a fuzz target without libFuzzer: its seeds, then random inputs, the same every time but for how many there is time for.
//
//   DRIVER [--seconds N] [--seed N]   what `make sanitize` runs, and `make fuzz` where there is no clang
//   DRIVER --write-seeds FOLDER       the seeds as files, for libFuzzer to start from
//   DRIVER FILE...                    these inputs, such as one that a crash left
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <malloc.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz/target.h"

namespace {

/// Keeps the input that runs in a file, mapped, so that it costs no system call: a crash leaves it.
class Kept {
public:
    explicit Kept(std::string path) : path_(std::move(path)) {
        const int file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (file < 0 || ::ftruncate(file, most) != 0) std::abort();
        void* map = ::mmap(nullptr, most, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (map == MAP_FAILED) std::abort();
        ::close(file);
        bytes_ = static_cast<uint8_t*>(map);
    }
    ~Kept() {
        ::munmap(bytes_, most);
        std::filesystem::remove(path_);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

    /// Eight bytes of length, then the input.
    void keep(const fuzz::Input& input) {
        const uint64_t length = input.size();
        std::memcpy(bytes_, &length, sizeof length);
        std::memcpy(bytes_ + sizeof length, input.data(), std::min(input.size(), most - sizeof length));
    }
    static fuzz::Input read(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        fuzz::Input bytes{std::istreambuf_iterator<char>(file), {}};
        uint64_t length = 0;
        if (bytes.size() != most) return bytes;  // a seed, or one of libFuzzer's
        std::memcpy(&length, bytes.data(), sizeof length);
        return {bytes.begin() + sizeof length,
                bytes.begin() + static_cast<ptrdiff_t>(sizeof length + std::min(length, most - sizeof length))};
    }

private:
    static constexpr size_t most = 1 << 20;
    std::string path_;
    uint8_t* bytes_ = nullptr;
};

void write_seeds(const std::filesystem::path& folder) {
    std::filesystem::create_directories(folder);
    size_t number = 0;
    for (const fuzz::Input& seed : fuzz::seeds()) {
        std::ofstream(folder / ("seed-" + std::to_string(number++)), std::ios::binary)
            .write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
    }
}

}  // namespace

int main(int argc, char** argv) {
    // Memory that was freed stays: to give it back and to ask for it anew takes longer than a small model's step.
    ::mallopt(M_MMAP_THRESHOLD, 1 << 26);
    ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
    int seconds = 6;
    uint64_t seed = 21, executions = 0;
    const std::string name = std::string("dca-fuzz-input-") + std::to_string(::getpid());
    Kept kept((std::filesystem::temp_directory_path() / name).string());
    const auto run = [&](const fuzz::Input& input) {
        kept.keep(input);
        LLVMFuzzerTestOneInput(input.data(), input.size());
        ++executions;
    };
    bool given = false;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word.starts_with("--") && i + 1 == argc) {
            std::fprintf(stderr, "%s needs a value\n", argv[i]);
            return 2;
        }
        if (word == "--seconds") {
            seconds = std::atoi(argv[++i]);
        } else if (word == "--seed") {
            seed = std::strtoull(argv[++i], nullptr, 10);
        } else if (word == "--write-seeds") {
            write_seeds(argv[++i]);
            return 0;
        } else {
            run(Kept::read(word));
            given = true;
        }
    }
    if (!given) {
        fuzz::Random random(seed);
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
        for (const fuzz::Input& input : fuzz::seeds()) run(input);
        while (std::chrono::steady_clock::now() < end) run(fuzz::random_input(random));
    }
    std::printf("%s: %llu executions\n", fuzz::target_name, static_cast<unsigned long long>(executions));
    return 0;
}
