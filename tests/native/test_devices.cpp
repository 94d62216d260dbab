// Names of devices, and the library of another backend: not there, not a library, not ours, and one that works.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include "faults/small_model.h"

namespace {

std::filesystem::path folder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path(); }

/// What stands where the library is looked for.
struct Library {
    ~Library() { std::filesystem::remove(path); }
    const std::filesystem::path path = folder() / "libdca_cuda.so";
};

dca_status load_on(const char* device, const std::string& file, dca_model** model) {
    dca_model_options options{};
    options.size = sizeof options;
    dca_model_options_default(&options);
    options.device = device;
    return dca_model_load(file.c_str(), &options, model);
}

bool said(const char* words) { return std::strstr(dca_last_error(), words) != nullptr; }

/// What `holds` says in a child: a process opens a library of one name once.
template <class Holds>
bool in_child(Holds holds) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(holds() ? 0 : 1);
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST(devices_that_are_none_are_refused_by_name) {
    const test::TemporaryFile file(test::small_model(test::llama, test::f32));
    dca_model* model = nullptr;
    for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999999999", "cuda:0x", ""}) {
        CHECK(load_on(device, file.path(), &model) == DCA_ERROR_ARGUMENT);
        CHECK(said("must be cpu, cuda, cuda:N or auto"));
    }
}

TEST(devices_need_a_library_that_is_ours) {
    const test::TemporaryFile file(test::small_model(test::llama, test::f32));
    dca_model* model = nullptr;
    const Library library;
    CHECK(!std::filesystem::exists(library.path));
    CHECK(load_on("cuda", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("this build has no CUDA backend"));
    CHECK(load_on("auto", file.path(), &model) == DCA_OK);
    dca_model_info info{};
    info.size = sizeof info;
    CHECK(dca_model_get_info(model, &info) == DCA_OK);
    CHECK(std::string(info.device).starts_with("cpu"));
    CHECK(std::string(info.architecture) == "llama");
    CHECK(info.weight_bytes_used <= info.weight_bytes);
    CHECK(info.n_params == info.n_params_used);
    dca_model_free(model);

    std::ofstream(library.path) << "no library";
    CHECK(load_on("cuda:0", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("the CUDA backend cannot be opened"));
    std::filesystem::remove(library.path);
    std::filesystem::create_symlink(folder() / "fake" / "libnot_ours.so", library.path);
    CHECK(in_child([&] { return load_on("cuda", file.path(), &model) == DCA_ERROR_DEVICE && said("is not this library's CUDA backend"); }));
    std::filesystem::remove(library.path);
    std::filesystem::create_symlink(folder() / "fake" / "libfake_cuda.so", library.path);
    for (const char* device : {"cuda", "cuda:0", "auto"}) {
        CHECK(load_on(device, file.path(), &model) == DCA_OK);
        CHECK(test::logits_of(model, test::some_tokens(5)).size() == fuzz::n_vocab);
        dca_model_free(model);
    }
    CHECK(load_on("cuda:3", file.path(), &model) == DCA_ERROR_DEVICE);
    CHECK(said("there is no card 3"));
}
